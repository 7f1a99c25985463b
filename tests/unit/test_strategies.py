"""The strategies give what they promise, edges included."""

from hypothesis import find, given

from harness.inputs.strategies import LONGEST, Scheduled, schedules, token_ids, token_inputs
from harness.inputs.tokens import TokenInput, schedule


@given(token_ids(50, min_length=2, max_length=9))
def test_token_ids_stay_in_the_vocabulary_and_the_length(tokens: tuple[int, ...]) -> None:
    assert 2 <= len(tokens) <= 9
    assert all(0 <= token < 50 for token in tokens)


def test_token_ids_reach_both_ends_of_the_vocabulary_and_repetition() -> None:
    assert 0 in find(token_ids(50), lambda tokens: 0 in tokens)
    assert 49 in find(token_ids(50), lambda tokens: 49 in tokens)
    assert find(token_ids(50), lambda tokens: len(tokens) == LONGEST and len(set(tokens)) == 1)


@given(token_inputs(50, 8))
def test_token_inputs_fit_the_cache(item: TokenInput) -> None:
    assert schedule(len(item.tokens), item.decode_tail, (4,), 8)


def test_schedules_reach_padding_chunks_and_full_caches() -> None:
    def padded(made: Scheduled) -> bool:
        return any(step.valid < step.size for step in made.steps)

    def chunked(made: Scheduled) -> bool:
        return sum(step.signature != "decode" for step in made.steps) >= 2

    for wanted in (padded, chunked, lambda made: made.length == made.kv_cache_len > 1):
        assert find(schedules(), wanted)
