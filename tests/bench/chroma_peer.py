"""Chroma on disk, in its own environment: `chroma_peer.py FOLDER BATCH LIMIT`. It prints what it took."""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

chromadb: Any = import_module("chromadb")  # which is not in the environment of those who check types

folder, batch, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
points, queries = np.load(folder / "points.npy"), np.load(folder / "queries.npy")
payloads = json.loads((folder / "payloads.json").read_text())
client = chromadb.PersistentClient(str(folder / "chroma"), chromadb.Settings(anonymized_telemetry=False))
collection = client.create_collection("points", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None)

began = time.perf_counter()
for first in range(0, len(points), batch):
    chunk = points[first : first + batch]
    numbers = range(first, first + len(chunk))
    collection.add([str(n) for n in numbers], embeddings=chunk, metadatas=payloads[first : first + batch])
collection.query(query_embeddings=queries[:1], n_results=limit)
load = time.perf_counter() - began

seconds: list[float] = []
found: list[list[int]] = []
for query in queries:
    began = time.perf_counter()
    answer = collection.query(query_embeddings=query[None], n_results=limit, include=["metadatas", "distances"])
    seconds.append(time.perf_counter() - began)
    found.append([payload["n"] for payload in answer["metadatas"][0]])
print(json.dumps({"version": chromadb.__version__, "load": load, "seconds": seconds, "found": found}))
