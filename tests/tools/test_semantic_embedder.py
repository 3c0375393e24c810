"""A real sentence model, from files, without a network."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.vectors.embedders import semantic
from quarterdeck.tools.vectors.embedders.base import EmbedderError
from quarterdeck.tools.vectors.embedders.semantic import BATCH, SemanticEmbedder
from tests.embedders import MINILM, unpack_minilm
from tests.until import until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_minilm(tmp_path_factory.mktemp("models") / "minilm")


@pytest.fixture
async def embedder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SemanticEmbedder]:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # nobody: whoever asked the hub would fail
    embedder = await SemanticEmbedder.open("semantic:minilm", MINILM, folder, tmp_path / "cache")
    yield embedder
    await embedder.close()


async def test_meaning_is_near_and_words_alone_are_not(embedder: SemanticEmbedder) -> None:
    assert (embedder.name, embedder.dimension) == ("semantic:minilm", 384)
    car, automobile, whale = await embedder.embed(["a car drives", "an automobile moves", "the whale sings"])
    assert car @ automobile > 0.6
    assert car @ whale < 0.3


async def test_rows_are_of_unit_length_and_do_not_depend_on_their_batch(embedder: SemanticEmbedder) -> None:
    texts = [f"sentence number {number} about {'the sea ' * (number % 7)}" for number in range(BATCH + 5)]
    rows = await embedder.embed(texts)
    assert (rows.shape, rows.dtype) == ((len(texts), 384), np.float32)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1)
    alone = await embedder.embed(texts[-1:])
    assert alone[0] @ rows[-1] > 0.99, "int8 activations are scaled by batch"
    assert (await embedder.embed([])).shape == (0, 384)


async def test_long_and_odd_texts_are_taken(embedder: SemanticEmbedder) -> None:
    rows = await embedder.embed(["word " * 20_000, "\ud800", "?!", "\u6771\u4eac"])
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("text", ["", " \n"])
async def test_a_blank_text_is_refused(embedder: SemanticEmbedder, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="nothing to embed"):
        await embedder.embed(["fine", text])


async def test_the_loop_goes_on_while_it_works(embedder: SemanticEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()
    embed = embedder._embed  # pyright: ignore[reportPrivateUsage]

    def held(texts: list[str]) -> object:
        entered.set()
        go_on.wait(20)
        return embed(texts)

    monkeypatch.setattr(embedder, "_embed", held)
    working = asyncio.create_task(embedder.embed(["words"]))
    await until(entered.is_set)
    assert not working.done()
    go_on.set()
    assert (await working).shape == (1, 384)


OPENED = """
import asyncio, sys
from pathlib import Path
from quarterdeck.tools.vectors.embedders.semantic import SemanticEmbedder
asyncio.run(SemanticEmbedder.open("semantic:x", sys.argv[1], Path(sys.argv[2]), Path(sys.argv[2])))
"""


def test_the_runtime_of_the_model_reports_to_nobody(folder: Path, tmp_path: Path) -> None:
    """With its telemetry on, it leaves a device id and a file of events in the home folder."""
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", OPENED, MINILM, str(folder)], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


async def open_from(folder: Path | None, tmp_path: Path, model: str = MINILM) -> SemanticEmbedder:
    return await SemanticEmbedder.open("semantic:x", model, folder, tmp_path / "cache")


async def test_a_folder_without_its_files_is_refused_by_their_names(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=r"needs model.onnx, tokenizer.json, tokenizer_config.json in .*nowhere"):
        await open_from(tmp_path / "nowhere", tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(EmbedderError, match=f"cannot load {MINILM} from .*damaged"):
        await open_from(damaged, tmp_path)


async def test_an_unknown_model_is_refused_with_some_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=r"fastembed knows no model 'nobody/nothing' \(some of"):
        await open_from(None, tmp_path, "nobody/nothing")


async def test_without_a_network_a_model_that_is_not_there_is_refused_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(EmbedderError, match="model hub does not answer") as caught:
        await open_from(None, tmp_path)
    assert f"QUARTERDECK_EMBEDDER=semantic:{MINILM}@FOLDER" in caught.value.message


async def test_a_download_runs_no_module_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(semantic, "_DOWNLOAD", "import stranger")
    with pytest.raises(EmbedderError, match="No module named 'stranger'"):
        await semantic._download(MINILM, tmp_path)  # pyright: ignore[reportPrivateUsage]
