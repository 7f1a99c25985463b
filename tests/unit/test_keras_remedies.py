"""Operators that TFLite lacks, as TensorFlow's converter names them: which they are, and what to do about each."""

from __future__ import annotations

import pytest

from harness.stages.keras.convert import needs_flex, remedy_for

SAID = "error: 'tf.{}' op is neither a custom op nor a flex op\n"


def test_each_operator_is_named_once_and_in_order() -> None:
    said = "".join(map(SAID.format, ("BitwiseAnd", "RegexReplace", "BitwiseAnd")))
    assert needs_flex(said) == ["BitwiseAnd", "RegexReplace"]
    assert needs_flex("error: something else") == []


@pytest.mark.parametrize(
    ("operator", "remedy"),
    [
        ("BitwiseAnd", "call tf.argmax"),
        ("RegexReplace", "leave the preprocessor out"),
        ("TFText>BoiseTagsToOffsets", "leave the preprocessor out"),
        ("LookupTableFindV2", "leave the preprocessor out"),
        ("StringSplitV2", "leave the preprocessor out"),
        ("UnicodeDecodeWithOffsets", "leave the preprocessor out"),
        ("Betainc", "compute it with operators that TFLite has"),
    ],
)
def test_an_operator_comes_with_what_to_do(operator: str, remedy: str) -> None:
    assert remedy in remedy_for([operator])
