"""Sentence models on this machine's processor (fastembed, ONNX): they find meaning.

A model comes from a folder, which needs no network, or from a cache that is filled from the model hub at its first use.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quarterdeck.storage.remote import one_line

from .base import EmbedderError, check_texts

if TYPE_CHECKING:
    import numpy as np
    from fastembed import TextEmbedding
    from numpy.typing import NDArray

HUB = "https://huggingface.co"
HUB_TIMEOUT = 5.0  # seconds; fastembed itself would try for 39
BATCH = 16  # texts at once: more were no faster
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")

_DOWNLOAD = (
    "import sys; from fastembed import TextEmbedding as T; T(sys.argv[1], cache_dir=sys.argv[2], lazy_load=True)"
)


class SemanticEmbedder:
    """An `Embedder`. Of a long text the beginning counts, as many tokens as the model takes."""

    def __init__(self, name: str, model: TextEmbedding) -> None:
        """Use `open`."""
        self.name = name
        self.dimension = model.embedding_size
        self._model = model
        self._one_at_a_time = asyncio.Lock()  # the model uses all cores for one batch

    @classmethod
    async def open(cls, name: str, model: str, folder: Path | None, cache: Path) -> SemanticEmbedder:
        """Load a model that fastembed knows, from `folder` or, where that is None, from `cache`.

        Raises:
            EmbedderError: fastembed is not installed or does not know the model, its files are not there or damaged,
                or the hub cannot be reached.
        """
        source = await asyncio.to_thread(_source, model)
        if folder is not None:
            return cls(name, await asyncio.to_thread(_load_folder, model, folder, source["model_file"]))
        loaded = await asyncio.to_thread(_load_cached, model, cache)
        if loaded is None:
            await _check_hub(model, source["sources"]["hf"])
            await _download(model, cache)
            loaded = await asyncio.to_thread(_load_cached, model, cache)
        if loaded is None:
            raise EmbedderError(f"what was downloaded into {cache} is not whole: remove it, and try again")
        return cls(name, loaded)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        check_texts(texts)
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._embed, texts)

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import numpy as np

        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # a batch is as long as its longest
        whole = (texts[number].encode("utf-8", "replace").decode() for number in order)  # no halves of characters
        rows = np.empty((len(texts), self.dimension), np.float32)
        for number, row in zip(order, self._model.embed(whole, batch_size=BATCH), strict=True):
            rows[number] = row
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    async def close(self) -> None:
        """There is nothing to give back."""


def _source(model: str) -> dict[str, Any]:
    """What fastembed knows about a model."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when it loads: else it reports to its maker, and keeps a device id
    try:
        from fastembed import TextEmbedding
        from loguru import logger
    except ImportError as exc:
        raise EmbedderError(f"QUARTERDECK_EMBEDDER=semantic: {exc}: pip install 'quarterdeck[semantic]'") from exc
    logger.disable("fastembed")  # what it says of a failure is in the error; stderr has the deck's own log
    known = {str(one["model"]).lower(): one for one in TextEmbedding.list_supported_models()}
    if model.lower() not in known:
        raise EmbedderError(
            f"QUARTERDECK_EMBEDDER: fastembed knows no model {model!r} "
            f"(some of {len(known)}: {', '.join(sorted(known)[:4])})"
        )
    return known[model.lower()]


def _load_folder(model: str, folder: Path, model_file: str) -> TextEmbedding:
    if missing := [file for file in (model_file, *TOKENIZER) if not (folder / file).is_file()]:
        raise EmbedderError(f"QUARTERDECK_EMBEDDER: {model} needs {', '.join(missing)} in {folder}")
    try:
        return _load(model, folder, specific_model_path=str(folder))
    except ValueError as exc:
        raise EmbedderError(f"QUARTERDECK_EMBEDDER: cannot load {model} from {folder}: {one_line(exc)}") from exc


def _load_cached(model: str, cache: Path) -> TextEmbedding | None:
    try:
        return _load(model, cache, cache_dir=str(cache), local_files_only=True)
    except ValueError:  # fastembed's word for "not in the cache"
        return None


def _load(model: str, place: Path, **where: Any) -> TextEmbedding:
    """Raises EmbedderError: the files are there, but damaged; ValueError: fastembed cannot do with them."""
    from fastembed import TextEmbedding

    onnx: Any = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    damaged: tuple[type[Exception], ...] = (OSError, onnx.Fail, onnx.InvalidGraph, onnx.InvalidProtobuf)
    try:
        return TextEmbedding(model, **where)
    except damaged as exc:
        raise EmbedderError(f"QUARTERDECK_EMBEDDER: cannot load {model} from {place}: {one_line(exc)}") from exc


def _without(model: str) -> str:
    return (
        f"{model} is not on this machine. Put its files into a folder and set "
        f"QUARTERDECK_EMBEDDER=semantic:{model}@FOLDER, or use lexical"
    )


async def _check_hub(model: str, repository: str) -> None:
    import httpx

    hub = os.environ.get("HF_ENDPOINT", HUB)
    try:
        async with httpx.AsyncClient(timeout=HUB_TIMEOUT, follow_redirects=True) as client:
            (await client.head(f"{hub}/api/models/{repository}")).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise EmbedderError(f"the model hub does not answer ({one_line(exc)}), and {_without(model)}") from exc


async def _download(model: str, cache: Path) -> None:
    """In a process of its own, which ends with this one's work: a thread could not be ended."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    command = (sys.executable, "-P", "-c", _DOWNLOAD, model, str(cache))  # -P: no module of the working directory
    process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=null, stderr=pipe)
    try:
        _, told = await process.communicate()
    finally:
        with suppress(ProcessLookupError):  # it has ended
            process.kill()
    if process.returncode:
        last = told.decode(errors="replace").strip().rpartition("\n")[2]
        raise EmbedderError(f"the download failed ({last}), and {_without(model)}")
