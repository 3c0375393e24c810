"""Words as the memory backends see them."""

from __future__ import annotations

import pytest

from quarterdeck.storage.memory.words import snippet, tokens


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Tea, two cups", ["tea", "two", "cups"]),
        ("user:42 a_b x.y", ["user", "42", "a", "b", "x", "y"]),
        ("Zoë ZOE\u0308", ["zoe", "zoe"]),
        ("Straße", ["strasse"]),
        ("日本 が 한국", ["日本", "が", "한국"]),  # these marks are no accents
        ("  \x00 \U0001f600 _ ", []),
    ],
)
def test_tokens_are_letters_and_digits_without_case_and_accents(text: str, found: list[str]) -> None:
    assert tokens(text) == found


def test_a_snippet_is_the_part_around_the_word() -> None:
    body = "x" * 300 + " Tea " + "y" * 300
    assert snippet(body, "tea") == "x" * 39 + " Tea " + "y" * 156
    assert snippet(body, "not there") == "x" * 200
    assert snippet("Tea", "tea") == "Tea"
