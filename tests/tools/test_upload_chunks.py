"""Chunks: small, in order, and nothing that says something is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.tools.uploads.chunks import CHUNK_CHARACTERS, chunks

TEXT = st.lists(
    st.sampled_from(["word ", "\n", "\n\n", "  \n \n", "\t", "x" * 700, "y" * 2500, "...", "日本語 ", "  indented\n"]),
    max_size=60,
).map("".join)


@given(TEXT)
def test_no_letter_is_lost_and_no_chunk_is_too_long(text: str) -> None:
    found = list(chunks(text))
    assert all(0 < len(chunk) <= CHUNK_CHARACTERS for chunk in found)
    letters = [char for char in text if char.isalnum()]
    assert [char for chunk in found for char in chunk if char.isalnum()] == letters
    assert all(chunk in text for chunk in found)


def test_cuts_are_at_paragraphs_else_lines_else_words() -> None:
    paragraph = "word " * 119 + "end."
    assert list(chunks(f"{paragraph}\n\n{paragraph}\n\n{paragraph}")) == [paragraph] * 3
    line = "word " * 59 + "end."
    assert list(chunks("\n".join([line] * 6))) == [f"{line}\n{line}\n{line}"] * 2
    assert list(chunks("word " * 300)) == [("word " * 200).rstrip(), ("word " * 100).rstrip()]
    assert [len(chunk) for chunk in chunks("x" * 2500)] == [1000, 1000, 500]


def test_the_indentation_of_code_stays() -> None:
    assert list(chunks("\n\n    def deep():\n        return 1\n")) == ["    def deep():\n        return 1"]


def test_what_says_nothing_is_left_out() -> None:
    assert list(chunks("")) == list(chunks(" \n--- ***\n")) == []
