"""What the engine makes of texts and conversations against what the checkpoint says: tokens, start, stops, template.

In: what a process with the engine in it gave. Out: answers. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.bundling.answers import Answer
from harness.names.codes import FindingCode
from harness.plain import brief
from harness.stages.litert_lm.examine import Examined, Rendered, Tokenized

_MAKE_AGAIN = "make the bundle again with 'edge-parity bundle MODEL --out FILE'"
_SHOWN = 40  # characters of a text


def answers(said: Examined, stops: Sequence[int]) -> list[Answer]:
    """stops: the tokens at which the checkpoint ends a text."""
    return [
        stop_tokens(said, stops),
        start_token(said),
        tokens(said),
        random_tokens(said),
        template(said),
        prompt(said),
    ]


def stop_tokens(said: Examined, stops: Sequence[int]) -> Answer:
    """All tokens at which the checkpoint ends a text, and no other."""
    answer = Answer("stop tokens", ", ".join(map(str, stops)))
    alone = {ids[0] for ids in said.stops if len(ids) == 1}
    lacking = [token for token in stops if token not in alone]
    if not stops:
        answer.not_checked("the checkpoint names none")
    if lacking:
        answer.wrong(
            FindingCode.BUNDLE_STOP_DIFFERS,
            f"the engine does not stop at {_ids(lacking)}, at which the checkpoint ends a text; {_MAKE_AGAIN}",
        )
    others = [ids for ids in said.stops if ids not in [[token] for token in stops]]
    if others:
        told = ", ".join(_ids(ids) for ids in others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        answer.wrong(
            FindingCode.BUNDLE_STOP_DIFFERS,
            f"the engine stops at {told} too, where the checkpoint goes on; leave them out unless the app wants them",
            "warning",
        )
    return answer


def start_token(said: Examined) -> Answer:
    """What really stands before a plain prompt, counted in the KV cache, against what Hugging Face puts there."""
    answer = Answer("start token")
    if said.put_before is None:
        answer.not_checked(f"a prompt could not be prefilled ({said.prefill_why})")
        answer.wrong(
            FindingCode.BUNDLE_ENGINE_REFUSES,
            f"the engine does not prefill a prompt of {len(said.probe)} tokens ({brief(said.prefill_why, 200, str)}); "
            "the log of the engine says more",
        )
        return answer
    if said.put_before != len(said.start):
        answer.wrong(
            FindingCode.BUNDLE_START_DIFFERS,
            f"the engine puts {said.put_before} tokens before a prompt, and the metadata names {len(said.start)}; "
            "give the start token as one id",
        )
    own, theirs = [*said.start, *said.probe], said.published_probe
    answer.found = f"{_ids(said.start)} before a prompt, as Hugging Face puts it"
    if own != theirs and said.probe in (theirs, theirs[1:]):
        before = theirs[: len(theirs) - len(said.probe)]
        answer.wrong(
            FindingCode.BUNDLE_START_DIFFERS,
            f"the engine puts {_ids(said.start)} before a prompt, and Hugging Face {_ids(before)}; set start_token in "
            f"the metadata, or {_MAKE_AGAIN}",
        )
    elif own != theirs:
        answer.wrong(
            FindingCode.BUNDLE_START_DIFFERS,
            f"a prompt is {own} to the engine and {theirs} to Hugging Face; give the tokenizer of the checkpoint",
        )
    return answer


def tokens(said: Examined) -> Answer:
    """The ids of a list of texts."""
    answer = Answer("tokens", f"the same ids for {said.texts} texts")
    if said.other:
        answer.wrong(
            FindingCode.BUNDLE_TOKENS_DIFFER,
            f"the engine makes other ids of {len(said.other)} of {said.texts} texts, such as "
            f"{_difference(said.other[0])}; give the tokenizer of the checkpoint",
        )
    return answer


def random_tokens(said: Examined) -> Answer:
    """The ids of random texts; the smallest that differs."""
    answer = Answer("tokens of random texts", f"the same ids for {said.tried} texts")
    if not said.tried:
        answer.not_checked("none was tried")
    if said.random_other is not None:
        answer.wrong(
            FindingCode.BUNDLE_TOKENS_DIFFER,
            f"the engine makes other ids of a random text: {_difference(said.random_other)}; give the tokenizer of the "
            "checkpoint",
        )
    return answer


def template(said: Examined) -> Answer:
    """Each conversation as the engine renders it, byte for byte. A start token counts as rendered where it stands for
    the one that the published template writes."""
    compared = [one for one in said.rendered if not one.published_why]
    answer = Answer("chat template", f"the same text for {len(compared)} conversations")
    if not said.has_template:
        answer.found = "the checkpoint has none"
        return answer
    if not compared:
        why = said.rendered[0].published_why if said.rendered else "no conversation was tried"
        answer.not_checked(f"Hugging Face renders none of the conversations ({why})")
        return answer
    empty = [one for one in compared if not one.engine]
    other = [one for one in compared if one.engine and not _same_text(one, said)]
    if empty:
        answer.wrong(
            FindingCode.BUNDLE_TEMPLATE_EMPTY,
            f"the engine renders {_names(empty)} to nothing ({brief(empty[0].engine_why, 200, str)}); give a template "
            "that takes the content of a message as a list of parts too",
        )
    if other:
        answer.wrong(
            FindingCode.BUNDLE_TEMPLATE_DIFFERS,
            f"the engine renders {_names(other)} otherwise than Hugging Face: {_parted(other[0])}; give a template "
            "that renders the same",
        )
    refused = [one.name for one in said.rendered if one.published_why]
    if refused:
        answer.found += f"; Hugging Face renders none of {', '.join(refused)}"
    return answer


def prompt(said: Examined) -> Answer:
    """What really goes into the model at the beginning of a conversation: start token and rendered ids together."""
    compared = [one for one in said.rendered if not one.published_why and one.engine]
    answer = Answer("prompt of a conversation", f"the same ids for {len(compared)} conversations")
    if not compared:
        answer.not_checked("no conversation was rendered by both")
        if not said.has_template:
            answer.checked, answer.found = True, "the checkpoint has no chat template"
        return answer
    for one in compared:
        own = [*said.start, *one.engine_ids]
        if own == one.published_ids:
            continue
        if said.start and one.engine_ids == one.published_ids:
            sentence = (
                f"the prompt of '{one.name}' begins with {_ids(own[: 2 * len(said.start)])}: the template writes the "
                "start token and the engine puts it there again; leave start_token out of the metadata, or bos_token "
                "out of the template"
            )
        else:
            place = _first(own, one.published_ids)
            sentence = (
                f"the prompt of '{one.name}' has {own[place : place + 3]} at token {place}, and Hugging Face "
                f"{one.published_ids[place : place + 3]}; {_MAKE_AGAIN}"
            )
        answer.wrong(FindingCode.BUNDLE_START_DIFFERS, sentence)
        break  # the others have the same cause
    return answer


def _names(rendered: Sequence[Rendered]) -> str:
    """The first conversation, and how many more."""
    more = f" and {len(rendered) - 1} more conversations" if len(rendered) > 1 else ""
    return f"'{rendered[0].name}'{more}"


def _same_text(one: Rendered, said: Examined) -> bool:
    """Or the engine leaves to its start token what the published template writes first."""
    if one.engine == one.published:
        return True
    left_out = bool(said.start) and one.published.endswith(one.engine)
    return left_out and [*said.start, *one.engine_ids] == one.published_ids


def _difference(other: Tokenized) -> str:
    place = _first(other.engine, other.published)
    if other.refusal:
        return f"{brief(other.text, _SHOWN)}, which it refuses ({brief(other.refusal, 100, str)})"
    own, theirs = other.engine[place : place + 4], other.published[place : place + 4]
    return f"{brief(other.text, _SHOWN)}: from token {place} on {own or 'nothing'} instead of {theirs or 'nothing'}"


def _parted(one: Rendered) -> str:
    place = _first(one.engine, one.published)
    own, theirs = (text[place : place + 20] for text in (one.engine, one.published))
    return f"from character {place} on {brief(own)} instead of {brief(theirs)}"


def _first(one: Sequence[object], other: Sequence[object]) -> int:
    """The first place at which two sequences differ."""
    same = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(same, min(len(one), len(other)))


def _ids(ids: Sequence[int]) -> str:
    if not ids:
        return "nothing"
    return f"token {ids[0]}" if len(ids) == 1 else f"tokens {', '.join(map(str, ids))}"
