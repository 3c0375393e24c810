"""The store that QUARTERDECK_SYNC_URL names, through a real server: agents reach it, clients do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError
from quarterdeck.storage.vectors.base import VectorStore
from quarterdeck.storage.vectors.faiss import FaissVectorStore
from quarterdeck.storage.vectors.qdrant import QdrantVectorStore
from tests.clock import ManualClock
from tests.here import DeckHere
from tests.servers.qdrant import API_KEY, QdrantShim

SYNC = {"do": "bidirectional_sync", "kind": "vectors", "left": "sea", "right": "sync:sea"}


@pytest.fixture(params=["file", "wire shim, not Qdrant"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "file":
        return {"QUARTERDECK_SYNC_URL": f"sqlite://{tmp_path / 'other.db'}"}
    shim: QdrantShim = request.getfixturevalue("qdrant_shim")
    return {"QUARTERDECK_SYNC_URL": shim.url, "QUARTERDECK_SYNC_KEY": API_KEY}


async def opened(place: dict[str, str]) -> VectorStore:
    url = place["QUARTERDECK_SYNC_URL"]
    if url.startswith("sqlite"):
        return await FaissVectorStore.open(Path(url.removeprefix("sqlite://")), ManualClock())
    return await QdrantVectorStore.open(url, API_KEY, ManualClock())


async def run(deck: DeckClient, mode: str = "acceptEdits") -> dict[str, Any]:
    agent = {"type": "synchronization", "name": "sync", "permissionMode": mode}
    [spawned] = (await deck.call("agents_spawn_parallel", agents=[agent]))["results"]
    started = await deck.call("query_start", agentId=spawned["agentId"], prompt=json.dumps(SYNC))
    [result] = (await deck.call("query_wait", queryIds=[started["queryId"]]))["results"]
    return result


async def test_an_agent_synchronises_with_it_and_a_client_cannot_name_it(tmp_path: Path, place: dict[str, str]) -> None:
    async with DeckClient(tmp_path / "data", environment=place) as deck:
        await deck.call("vector_upsert", collection="sea", points=[{"id": "a", "text": "whales sing"}])
        refused = await run(deck, "default")
        assert "permission mode default writes only to" in refused["error"]
        done = await run(deck)
        assert (done["status"], done["result"]["copied"]) == ("completed", {"left": 0, "right": 1})
        assert (await run(deck))["result"]["equal"] == 1
        with pytest.raises(ToolRefusedError, match="a name is 1 to 128 letters"):
            await deck.call("vector_search", collection="sync:sea", query="whales")
        assert API_KEY not in deck.stderr
    store = await opened(place)
    [point] = await store.page("sea", limit=2)
    info = await store.describe("sea")
    assert (point.id, point.payload, info.embedder) == ("a", {"text": "whales sing"}, "lexical")
    await store.drop("sea")
    await store.close()


async def test_without_it_no_collection_is_elsewhere(tmp_path: Path) -> None:
    async with DeckHere(tmp_path) as deck:
        await deck.call("vector_upsert", collection="sea", points=[{"id": "a", "text": "whales sing"}])
        assert "a name is 1 to 128 letters" in (await run(deck))["error"]


def test_its_key_is_not_shown_and_a_wrong_url_is_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "QUARTERDECK_DATA_DIR": str(tmp_path), "QUARTERDECK_SYNC_KEY": API_KEY}
    command = [sys.executable, "-m", "quarterdeck.server", "config"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "QUARTERDECK_SYNC_KEY=***" in done.stdout
    environment["QUARTERDECK_SYNC_URL"] = "ftp://host"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "QUARTERDECK_SYNC_URL: " in done.stderr
    assert "https://" in done.stderr
    assert API_KEY not in done.stdout + done.stderr
