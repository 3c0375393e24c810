"""Comparing an index with the truth that it was derived from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .generation import Generation
from .matrix import decode_comparable
from .reader import Collection, Reader
from .snapshots import Snapshots
from .vectors import RamVectors

TOLERANCE = {"none": 0.0, "fp16": 1e-3}  # of a number, relative; the other widths depend on the data


def defects(reader: Reader, collection: Collection, generation: Generation, snapshots: Snapshots) -> Iterator[str]:
    """What is wrong, a sentence each."""
    slots = generation.slots
    there = np.array(reader.keys(collection.key), np.int64)
    if stale := len(np.setdiff1d(slots.keys[slots.alive], there)):
        yield f"the index finds {stale} points that are not there"
    if lost := len(np.setdiff1d(there, slots.keys)):
        yield f"the index lacks {lost} points"
    if changed := _changed(reader, collection, generation):
        yield f"the index has other vectors for {changed} points"
    if collection.snapshot is not None and not snapshots.is_sound(collection.snapshot):
        yield f"the snapshot {collection.snapshot} is damaged: the next start builds the index anew"


def _changed(reader: Reader, collection: Collection, generation: Generation) -> int:
    vectors, tolerance = generation.index.vectors, TOLERANCE.get(generation.structure[1])
    if tolerance is None or not isinstance(vectors, RamVectors):
        return 0
    changed = 0
    for rows in reader.rows_after(collection, 0, payloads=False):
        keys = np.array([row[0] for row in rows])
        known = np.isin(keys, generation.slots.keys)
        slots = np.searchsorted(generation.slots.keys, keys[known])
        expected = decode_comparable((row[1] for row in rows), collection.info)[known]
        held = vectors.index.reconstruct_batch(slots)
        changed += int(np.count_nonzero(~np.isclose(held, expected, rtol=tolerance, atol=tolerance).all(axis=1)))
    return changed
