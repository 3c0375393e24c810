"""A process that upserts batches until it is killed, and prints the number of each once it is acknowledged.

Usage: python vector_writer.py <database> <first batch>
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from itertools import count
from pathlib import Path

from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.errors import ConflictError
from quarterdeck.storage.vectors.base import Point
from quarterdeck.storage.vectors.faiss import FaissVectorStore

BATCH = 60
DIMENSION = 32


async def main(path: Path, first: int) -> None:
    store = await FaissVectorStore.open(path, SystemClock())
    with contextlib.suppress(ConflictError):
        await store.create("c", DIMENSION, index="pq", quantization="pq")
    for batch in count(first):
        vector = [1.0, float(batch)] + [0.5] * (DIMENSION - 2)
        await store.upsert("c", [Point(f"{batch}-{n}", vector, {"batch": batch}) for n in range(BATCH)])
        await store.delete("c", [f"{batch}-0"])
        print(batch, flush=True)
        await store.search("c", [vector], limit=1)  # so that an index is built, and kept, as they become many


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
