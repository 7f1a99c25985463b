"""When and with which variables this process began. Imported first: packages set variables while they are imported."""

from __future__ import annotations

import os
import time

# When this process, or the server that it was forked from, began to import code: what was written later is not loaded.
IMPORTED_AT = time.time_ns()
STARTED_WITH = dict(os.environ)
