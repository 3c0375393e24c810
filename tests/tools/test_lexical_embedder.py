"""The lexical embedder: deterministic, of unit length, and it finds texts by their words."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.vectors.embedders.base import Embedder
from quarterdeck.tools.vectors.embedders.lexical import INLINE_CHARS, LexicalEmbedder
from tests.docstrings import docstrings

TEXT = "The quick brown fox, na\u00efve and \u6771\u4eac"
PRINT_ONE = f"""
import asyncio
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
print(asyncio.run(LexicalEmbedder().embed([{TEXT!a}])).tobytes().hex())
"""


@pytest.fixture
def embedder() -> Embedder:
    return LexicalEmbedder()


async def likeness(embedder: Embedder, one: str, other: str) -> float:
    first, second = await embedder.embed([one, other])
    return float(first @ second)


async def test_shape_type_and_length(embedder: Embedder) -> None:
    texts = list(docstrings().values())[:20]
    assert sum(map(len, texts)) > INLINE_CHARS, "goes through the thread"
    matrix = await embedder.embed(texts)
    assert (matrix.shape, matrix.dtype) == ((20, embedder.dimension), np.float32)
    assert np.linalg.norm(matrix, axis=1) == pytest.approx(1)
    assert np.array_equal(matrix[3:4], await embedder.embed([texts[3][:INLINE_CHARS]])) == (
        len(texts[3]) <= INLINE_CHARS
    )


def embed_elsewhere(seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", PRINT_ONE], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


async def test_another_process_makes_the_same_vectors(embedder: Embedder) -> None:
    here = await embedder.embed([TEXT])
    assert embed_elsewhere("1") == embed_elsewhere("2") == here.tobytes().hex()


async def test_words_count_and_their_order_does_not(embedder: Embedder) -> None:
    assert await likeness(embedder, "red green blue", "Blue, GREEN; red!") == pytest.approx(1)
    assert await likeness(embedder, "snake_case", "case snake") == pytest.approx(1)
    assert await likeness(embedder, "Straße \ufb01n", "STRASSE fin") == pytest.approx(1)
    assert abs(await likeness(embedder, "car", "automobile")) < 0.2


async def test_forms_and_misspellings_of_a_word_stay_near(embedder: Embedder) -> None:
    for one, other in (("compression", "compressed"), ("argument", "argumnet"), ("thread", "threads")):
        assert await likeness(embedder, one, other) > 0.1 + abs(await likeness(embedder, one, "zebra"))


async def test_a_repeated_word_weighs_less_than_proportionally(embedder: Embedder) -> None:
    once, often = "alpha beta", "alpha " * 50 + "beta"
    assert 0.7 < await likeness(embedder, once, often) < 0.95


@pytest.mark.parametrize("text", ["", " \n", "?! -- __", "\ud800"])
async def test_a_text_without_words_is_refused(embedder: Embedder, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no letter or digit to embed"):
        await embedder.embed(["fine", text])


async def test_no_texts_make_no_vectors(embedder: Embedder) -> None:
    assert (await embedder.embed([])).shape == (0, embedder.dimension)


@given(st.text(min_size=1, max_size=300).filter(lambda text: any(map(str.isalnum, text))))
async def test_any_text_with_a_letter_has_a_direction(text: str) -> None:
    (vector,) = await LexicalEmbedder().embed([text])
    assert np.linalg.norm(vector) == pytest.approx(1)


async def test_a_docstring_is_found_by_its_own_words(embedder: Embedder) -> None:
    texts = list(docstrings().values())
    matrix = await embedder.embed(texts)
    queries = await embedder.embed([" ".join(text.split()[:12]) for text in texts])
    first = np.argmax(queries @ matrix.T, axis=1) == np.arange(len(texts))
    assert first.mean() > 0.8
