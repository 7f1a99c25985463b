"""Where the checkout is, for tests in whatever folder they stand."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
