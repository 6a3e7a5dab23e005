"""Snowflakes as text: they sort as the numbers do, and one id has one text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.components.uid import from_text, to_text


@given(numbers=st.lists(st.integers(0, (1 << 63) - 1), min_size=2))
def test_texts_sort_as_the_ids(numbers: list[int]) -> None:
    """And lead back to them."""
    texts = [to_text(number) for number in numbers]
    assert sorted(texts) == [to_text(number) for number in sorted(numbers)]
    assert [from_text(text) for text in texts] == numbers
    assert {len(text) for text in texts} == {13}


@pytest.mark.parametrize("number", [-1, 1 << 63])
def test_numbers_that_have_no_text(number: int) -> None:
    """An id has 63 bits at most."""
    with pytest.raises(ValueError, match=str(number)):
        to_text(number)


@pytest.mark.parametrize(
    "text", ["", "1", "0" * 12, "0" * 14, "000000000000o", "000000000000I", "00000000000a0", "G000000000000", " " * 13]
)
def test_texts_of_no_id(text: str) -> None:
    """Another length, small letters, lookalikes, and what is too large."""
    with pytest.raises(ValueError, match="is not the text of an id"):
        from_text(text)
