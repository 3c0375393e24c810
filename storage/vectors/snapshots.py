"""An index kept on disk, so that a start need not build it: a folder for each, whose name the collection's row has.

The row is written last, so a snapshot is whole or not there; a database that was restored names its own, older one or
none. A file that is not as it was written (by length and checksum) makes the index be built anew.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .codes import Codes
from .generation import Generation
from .index import Index, graph_over
from .reader import Collection
from .vectors import MappedVectors, RamVectors, Vectors, faiss

MANIFEST, SLOTS, BASE, FLAT = "manifest.json", "slots.npy", "base.faiss", "flat.faiss"
SECOND = "base-2.faiss"  # of the codes, where they are in two parts
READ_AT_ONCE = 1 << 22
ABANDONED_AFTER = 24 * 3600  # seconds since a folder was changed: no building takes that long
FORMATS = (1, 2)  # the second has codes in two parts


class Snapshots:
    def __init__(self, root: Path) -> None:
        self._root = root

    def new_folder(self, key: int) -> Path:
        """An empty folder for the collection with this key."""
        self._root.mkdir(mode=0o700, exist_ok=True)
        folder = self._root / f"{key}-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        return folder

    def discard(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def remove_all(self, key: int) -> None:
        """Remove the folders of a collection that is gone; whoever has mapped a file of theirs goes on with it."""
        for folder in self._root.glob(f"{key}-*"):
            self.discard(folder)

    def prune(self, key: int, kept: str, before: str | None) -> None:
        """Remove the folder that `kept` has replaced, and what was left by whoever died when building.

        Another process may be building in a folder of its own right now.
        """
        for folder in self._root.glob(f"{key}-*"):
            if folder.name != kept and (folder.name == before or _is_abandoned(folder)):
                self.discard(folder)

    def size(self, name: str | None) -> int:
        """Bytes of a snapshot's files."""
        try:
            return sum(path.stat().st_size for path in (self._root / name).iterdir()) if name else 0
        except OSError:  # a newer one has just taken its place, or it is damaged
            return 0

    def save(self, generation: Generation, folder: Path) -> None:
        """Write and flush all of it; vectors that are mapped from this folder are there already."""
        index, slots = generation.index, generation.slots
        np.save(folder / SLOTS, np.stack([slots.keys, slots.expiries, slots.alive.astype(np.int64)]))
        if index.codes is not None:
            for part, name in zip(index.codes.parts, (BASE, SECOND), strict=False):
                faiss.write_index(part, str(folder / name))
        if index.graph is not None:
            faiss.write_index(index.graph, str(folder / BASE))
        elif isinstance(index.vectors, MappedVectors):
            index.vectors.save(folder / MappedVectors.FILE)
        elif isinstance(index.vectors, RamVectors):
            faiss.write_index(index.vectors.index, str(folder / FLAT))
        manifest = {
            "format": FORMATS[(folder / SECOND).exists()],
            "shape": _shape(generation),
            "structure": generation.structure,
            "wish": generation.wish,
            "sequence": generation.sequence,
            "built": generation.built,
            "recall": generation.recall,
            "note": generation.note,
            "files": {path.name: [path.stat().st_size, _checksum(path)] for path in folder.iterdir()},
        }
        (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        for path in folder.iterdir():
            path.chmod(0o600)  # as all files of the data directory; FAISS and NumPy make them for everybody
        for path in (*folder.iterdir(), folder, self._root):
            _flush(path)

    def load(self, collection: Collection) -> Generation | None:
        """The kept index of a collection; None if there is none, or it is not as it was written."""
        if collection.snapshot is None:
            return None
        folder = self._root / collection.snapshot
        try:
            manifest = self._checked(folder)
            return _read(folder, manifest, collection)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # FAISS raises RuntimeError
            return None

    def is_sound(self, name: str) -> bool:
        try:
            self._checked(self._root / name)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def _checked(self, folder: Path) -> Any:
        """Raises ValueError or KeyError if the folder does not hold what its manifest says."""
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] not in FORMATS:
            raise ValueError("written by another version")
        for name, (size, checksum) in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != size or _checksum(path) != checksum:
                raise ValueError(f"{name} is damaged")
        return manifest


def _read(folder: Path, manifest: Any, collection: Collection) -> Generation | None:
    info = collection.info
    kind, quantization = manifest["structure"]
    if kind == "hnsw":
        index = graph_over(faiss.read_index(str(folder / BASE)), info.dimension, info.metric)
    else:
        vectors: Vectors
        if quantization == "pq":
            vectors = MappedVectors(folder / MappedVectors.FILE, info.dimension, info.metric)
        else:
            vectors = RamVectors(faiss.read_index(str(folder / FLAT)), info.metric)
        index = Index(kind, info.dimension, vectors, codes=_codes(folder, manifest) if kind != "exact" else None)
    generation = Generation(info, index, (kind, quantization), tuple(manifest["wish"]))
    if manifest["shape"] != _shape(generation) or manifest["sequence"] > collection.sequence:
        return None
    keys, expiries, alive = np.load(folder / SLOTS)
    generation.slots.append(keys, expiries)
    generation.slots.keep(keys[alive.astype(np.bool_)])
    generation.sequence = manifest["sequence"]
    generation.built = manifest["built"]
    generation.recall = manifest["recall"]
    generation.note = manifest["note"]
    return generation


def _is_abandoned(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > ABANDONED_AFTER
    except OSError:  # another process has just removed it
        return False


def _codes(folder: Path, manifest: Any) -> Codes:
    names = (BASE, SECOND) if SECOND in manifest["files"] else (BASE,)
    parts = [faiss.read_index(str(folder / name)) for name in names]
    return Codes(parts, parts[0].ntotal)


def _shape(generation: Generation) -> dict[str, Any]:
    kept = asdict(generation.info)
    return {name: kept[name] for name in ("dimension", "metric", "stored", "created_at")}


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(READ_AT_ONCE):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _flush(path: Path) -> None:
    folder = path.is_dir()
    if folder and sys.platform == "win32":  # folders need no sync of their own there
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)  # Windows syncs what may be written
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
