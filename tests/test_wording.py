"""How numbers are worded."""

from __future__ import annotations

import pytest

from fp8bench import wording


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "cell", "1 cell"),
        (0, "cell", "0 cells"),
        (2, "whole family", "2 whole families"),
        (1, "launch", "1 launch"),
        (3, "launch", "3 launches"),
    ],
)
def test_counts_agree_with_their_noun(number: int, noun: str, said: str) -> None:
    assert wording.count(number, noun) == said
