"""Conversion variants: the ways one re-authored model becomes a flatbuffer, and what each is called.

In: a name such as "no-hlfb,kv=transposed", or the options of the command line. Out: a `Variant`. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from harness.errors import UsageError
from harness.plain import one_line

KV_LAYOUTS = ("default", "transposed")
DEFAULT = "default"
_DIGITS = 15  # of a length; Python refuses to read numbers of thousands


@dataclass(frozen=True)
class Variant:
    """One way to convert.

    hlfb: whether norms and attention become composites (litert-torch's high-level function boundaries), which a
        delegate may replace by one kernel. Without them the graph holds their plain operators.
    kv_layout: "default" keeps K and V as [batch, time, kv_heads, head_dim]; "transposed" keeps K as
        [batch, kv_heads, time, head_dim] and V as [batch, kv_heads, head_dim, time].
    mask_as_input: whether the attention mask is an input of every signature, which the runtime fills, or is built
        inside the graph.
    prefill: lengths of the prefill signatures, ascending; empty for those that the model declares.
    kv_cache_len: positions of the KV cache; 0 for those that the model declares.
    """

    hlfb: bool = True
    kv_layout: str = "default"
    mask_as_input: bool = False
    prefill: tuple[int, ...] = ()
    kv_cache_len: int = 0

    @property
    def name(self) -> str:
        """What the record calls it: "default", or what differs from it, e.g. "kv=transposed,prefill=8+32"."""
        words = [
            "" if self.hlfb else "no-hlfb",
            "" if self.kv_layout == "default" else f"kv={self.kv_layout}",
            "mask-as-input" if self.mask_as_input else "",
            f"prefill={'+'.join(map(str, self.prefill))}" if self.prefill else "",
            f"kv-cache={self.kv_cache_len}" if self.kv_cache_len else "",
        ]
        return ",".join(word for word in words if word) or DEFAULT

    def settled(self, declared: Sequence[int], kv_cache_len: int = 0) -> Variant:
        """Without lengths that are the declared ones anyway, so that one conversion has one name."""
        same = list(self.prefill) == sorted(set(declared))
        cache = 0 if self.kv_cache_len == kv_cache_len else self.kv_cache_len
        return replace(self, prefill=() if same else self.prefill, kv_cache_len=cache)


@dataclass(frozen=True)
class VariantOptions:
    """What a user said of the variant; None where nothing was said and the model's own choice stands."""

    hlfb: bool | None = None
    kv_layout: str | None = None
    mask_as_input: bool | None = None
    prefill: tuple[int, ...] | None = None
    kv_cache_len: int | None = None

    def __post_init__(self) -> None:
        if self.kv_layout is not None:
            _check_layout(self.kv_layout, f"--kv-layout {self.kv_layout}")
        if self.kv_cache_len is not None and self.kv_cache_len < 1:
            raise UsageError(f"--kv-cache-len {self.kv_cache_len} holds no token; give 1 or more, e.g. 512")

    @classmethod
    def exactly(cls, variant: Variant) -> VariantOptions:
        """Options that give this variant whatever the model declares; its own prefill lengths if it names none."""
        return cls(
            variant.hlfb,
            variant.kv_layout,
            variant.mask_as_input,
            variant.prefill or None,
            variant.kv_cache_len or None,
        )

    def given(self) -> list[str]:
        """The options that were given, as they are typed."""
        typed = {
            "hlfb": "--hlfb" if self.hlfb else "--no-hlfb",
            "kv_layout": "--kv-layout",
            "mask_as_input": "--mask-as-input" if self.mask_as_input else "--mask-inside",
            "prefill": "--prefill",
            "kv_cache_len": "--kv-cache-len",
        }
        return [typed[field.name] for field in fields(self) if getattr(self, field.name) is not None]

    def applied_to(self, variant: Variant) -> Variant:
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(variant, **{name: value for name, value in said.items() if value is not None})


def parse_variant(text: str) -> Variant:
    """`Variant.name` read back. Raises UsageError that names the word that is none."""
    variant = Variant()
    for word in (part.strip() for part in text.split(",")):
        key, _, value = word.partition("=")
        if word == DEFAULT:
            continue
        if word == "no-hlfb":
            variant = replace(variant, hlfb=False)
        elif word == "mask-as-input":
            variant = replace(variant, mask_as_input=True)
        elif key == "kv":
            _check_layout(value, word)
            variant = replace(variant, kv_layout=value)
        elif key == "prefill":
            variant = replace(variant, prefill=_lengths(value.split("+"), f"prefill={value}", "prefill=8+32"))
        elif key == "kv-cache":
            (length,) = _lengths([value], word, "kv-cache=512")
            variant = replace(variant, kv_cache_len=length)
        else:
            raise UsageError(
                f"variant '{text}' has no meaning at '{word}'; the words are no-hlfb, kv=transposed, mask-as-input, "
                "prefill=8+32 and kv-cache=512, joined by commas"
            )
    return variant


def parse_prefill(text: str) -> tuple[int, ...]:
    """`--prefill 8,32`, ascending and each length once. Raises UsageError."""
    return _lengths(text.split(","), f"--prefill {text}", "--prefill 8,32")


def _lengths(words: Sequence[str], where: str, example: str) -> tuple[int, ...]:
    # isdecimal alone takes other scripts' digits, and int would read them.
    stripped = [word.strip() for word in words]
    if not all(word.isascii() and word.isdecimal() and len(word) <= _DIGITS and int(word) > 0 for word in stripped):
        raise UsageError(f"{one_line(where, 80)} is not a list of lengths; give whole numbers from 1, e.g. {example}")
    return tuple(sorted({int(word) for word in words}))


def _check_layout(layout: str, where: str) -> None:
    if layout not in KV_LAYOUTS:
        raise UsageError(f"{where} is no KV layout; the layouts are {', '.join(KV_LAYOUTS)}")
