"""What every part of a record has in common. In: nothing. Out: the base class of its parts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["pass", "fail"]
TapVerdict = Literal["pass", "fail", "missing"]


class Part(BaseModel):
    """Keys that a later version adds are kept. The text under a field is its description in the JSON Schema."""

    model_config = ConfigDict(
        extra="allow", populate_by_name=True, ser_json_inf_nan="null", use_attribute_docstrings=True
    )
