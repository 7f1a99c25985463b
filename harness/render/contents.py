"""What is in a flatbuffer, in the terminal. In: `FileContents`. Out: lines and tables on a rich console."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.names.stages import XNNPACK
from harness.plain import one_line
from harness.record.contents import FileContents, NamedTensor, SignatureContents
from harness.render.console import cells, line, new_table, wrapped
from harness.render.numbers import number

if TYPE_CHECKING:
    from rich.console import Console

_KV = ("kv_cache_k_", "kv_cache_v_")
_LONGEST_LIST = 6  # inputs or outputs that are told one by one


def print_contents(found: FileContents, console: Console) -> None:
    """Everything that the file itself says."""
    line(console, f"{one_line(found.file)}  {megabytes(found.size)}", style="bold")
    if found.description:
        line(console, f"  {found.description}; schema version {found.version}")
    for signature in found.signatures:
        line(console, f"signature {signature.name}" if signature.name else "no signature; its first subgraph")
        wrapped(console, f"takes {tensors_words(signature.inputs)}", indent=4)
        wrapped(console, f"gives {tensors_words(signature.outputs)}", indent=4)
    _print_forms(found, console)
    _print_sizes(found, console)
    if found.custom:
        wrapped(console, f"custom operators: {counts_words(found.custom)}", style="yellow")
    if found.flex:
        wrapped(
            console,
            "Flex operators run only on a runtime with TensorFlow's own kernels (Select TF), which LiteRT has not: "
            "convert with builtin operators alone",
            style="yellow",
        )
    for entry in found.metadata:
        line(console, f"  metadata {entry.name}: {entry.text or f'{entry.size} bytes'}")


def print_delegated(found: FileContents, console: Console) -> None:
    """What the runtimes of this machine said."""
    for signature in found.signatures:
        total = sum(signature.operators.values())
        for one in signature.delegated:
            what = f"{one.runtime}  {signature.name or 'its first subgraph'}: "
            if one.error:
                wrapped(console, f"{what}does not load: {one.error}", indent=0, style="bold red")
                continue
            if one.runtime != XNNPACK:
                line(console, f"{what}loads; {total} operators, no delegate")
                continue
            taken = sum(one.operators.values())
            line(console, f"{what}{taken} of {total} operators delegated, in {one.partitions} pieces")
            if left := _left(signature, one.operators):
                wrapped(console, f"not delegated: {counts_words(left)}", indent=4)


def _left(signature: SignatureContents, taken: dict[str, int]) -> dict[str, int]:
    """Those that no delegate takes, of how many."""
    return dict((Counter(signature.operators) - Counter(taken)).most_common())


def _print_forms(found: FileContents, console: Console) -> None:
    table = new_table("Operators", (("operator", False), ("count", True), ("reads", False), ("gives", False)))
    for row in found.forms:
        table.add_row(*cells(row.kind, str(row.count), ", ".join(row.reads), ", ".join(row.gives)))
    console.print(table)
    for signature in found.signatures:
        own = sum(signature.operators.values())
        inside = sum(signature.inside.values())
        within = f", and {inside} within composites and subgraphs that it calls" if inside else ""
        line(console, f"  {signature.name or 'its first subgraph'}: {own} operators{within}")


def _print_sizes(found: FileContents, console: Console) -> None:
    table = new_table("Bytes", (("what", False), ("type", False), ("tensors", True), ("size", True), ("share", True)))
    for row in found.sizes:
        table.add_row(*cells(row.what, row.dtype, str(row.tensors), megabytes(row.size), _share(row.size, found.size)))
    table.add_row(*cells("tables, metadata, padding", "", "", megabytes(found.rest), _share(found.rest, found.size)))
    console.print(table)
    if found.outside:
        line(console, f"  {megabytes(found.outside)} stand outside the flatbuffer's tables")
    if len(found.signatures) > 1:
        line(console, f"  {megabytes(found.shared)} are read by more than one signature")
    if found.doubled:
        line(console, f"  {megabytes(found.doubled)} are in the file twice, byte for byte", style="yellow")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def megabytes(size: int) -> str:
    return f"{number(size / 1e6)} MB" if size >= 10_000 else f"{size:,} bytes"


def counts_words(counts: dict[str, int]) -> str:
    """`61 odml.rms_norm, 4 RESHAPE`."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def tensors_words(tensors: Sequence[NamedTensor]) -> str:
    """Each with its type and shape; the tensors of a KV cache in one piece, and long lists cut."""
    cache = [one for one in tensors if one.name.startswith(_KV)]
    others = [one for one in tensors if one not in cache]
    words = [_tensor(one) for one in others[:_LONGEST_LIST]]
    if len(others) > _LONGEST_LIST:
        words.append(f"{len(others) - _LONGEST_LIST} more")
    if cache:
        forms = dict.fromkeys(f"{one.dtype} {one.shape}" for one in cache)
        words.append(f"a KV cache of {len(cache)} tensors, {', '.join(forms)}")
    return "; ".join(words) or "nothing"


def _tensor(one: NamedTensor) -> str:
    return f"{one.name} {one.dtype} {one.shape}"
