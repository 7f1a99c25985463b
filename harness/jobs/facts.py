"""What a stage says beside its traces: to the engine, and for the record.

In: nothing. Out: `Facts`, which cross the border of a process as JSON. Imports no framework and no numpy.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from harness.record.record import Finding

# What becomes a part of the record elsewhere, or of no record at all.
_NOT_WITH_THE_STAGE = {"findings", "last_position", "twins"}


class CacheEnd(BaseModel):
    """What becomes of the first position past the KV cache."""

    position: int  # counted from 0: the length of the cache
    refusal: str = ""  # what the runtime said; empty where it took the position
    overwritten: list[int] = Field(default_factory=list)  # slots that changed then


class LastPosition(BaseModel):
    """What comes of the last position in the KV cache, with every slot full."""

    position: int  # counted from 0
    logits: list[float | None] = Field(default_factory=list)  # some of them, evenly spaced; None for not finite
    refusal: str = ""  # what the runtime said instead


class Facts(BaseModel):
    """What any stage may say: these the engine reads. A stage has a class of its own for what it adds."""

    model_config = ConfigDict(extra="allow")  # the engine keeps for the record what it does not know

    findings: list[Finding] = Field(default_factory=list)  # what it found with the weights in hand
    absent_modules: list[str] = Field(default_factory=list)  # that the model should have, and has not
    # "input: signature at position" where a tapped copy's own outputs are not the untouched file's.
    steps_differing_from_untouched_file: list[str] = Field(default_factory=list)
    past_the_cache: CacheEnd | None = None  # None where it was not asked
    last_position: LastPosition | None = None  # of its KV cache; None where it was not asked
    # Stages that compute the same, bit by bit, on the file of this one: name -> what each would say.
    twins: dict[str, dict[str, object]] = Field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Those that the stage has, as JSON holds them."""
        held = self.model_dump(mode="json")
        return {name: held[name] for name in held if name in self.model_fields_set}

    def recorded(self) -> dict[str, object]:
        """What the record says of the stage."""
        return {name: value for name, value in self.as_dict().items() if name not in _NOT_WITH_THE_STAGE}
