"""What every part of a record has in common. In: nothing. Out: the base class of its parts, the type of its numbers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

Verdict = Literal["pass", "fail"]
TapVerdict = Literal["pass", "fail", "missing"]


def _read(value: Any) -> Any:
    return math.nan if value is None else value


# JSON has neither NaN nor infinity: both are written as null, and read as NaN. A plain `float` would refuse that null,
# and with it the whole record.
Number = Annotated[float, BeforeValidator(_read), WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]})]


class Part(BaseModel):
    """Keys that a later version adds are kept. The text under a field is its description in the JSON Schema."""

    model_config = ConfigDict(
        extra="allow", populate_by_name=True, ser_json_inf_nan="null", use_attribute_docstrings=True
    )
