"""QUARTERDECK_VECTORS_URL and QUARTERDECK_CACHE_URL, from a client's view and from the command line's."""

from __future__ import annotations

from pathlib import Path

import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError
from tests.here import DeckHere
from tests.server.command import run
from tests.servers.qdrant import API_KEY, QdrantShim
from tests.servers.valkey import ValkeyServer

SECRET = "sesame"


def environment(shim: QdrantShim, valkey: ValkeyServer) -> dict[str, str]:
    return {
        "QUARTERDECK_VECTORS_URL": shim.url,
        "QUARTERDECK_VECTORS_KEY": API_KEY,
        "QUARTERDECK_CACHE_URL": valkey.url,
    }


async def test_two_decks_share_a_server_and_a_cache(
    qdrant_shim: QdrantShim, valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    valkey_server.clear()
    settings = environment(qdrant_shim, valkey_server)
    async with (
        DeckClient(tmp_path / "one", environment=settings) as one,
        DeckHere(tmp_path / "two", environment=settings) as two,
    ):
        status = await one.call("server_status")
        assert status["backends"]["vectors"] == "qdrant"
        assert status["caches"]["vectors"]["cache_hit_rate"] is None, "nothing was asked yet"
        points = [{"id": "a", "text": "one quick fox", "payload": {"n": 1}}, {"id": "b", "vector": [0.5] * 384}]
        await one.call("vector_upsert", collection="shared", points=points[:1])
        with pytest.raises(ToolRefusedError, match="cannot be compared"):
            await one.call("vector_upsert", collection="shared", points=points[1:])
        for deck in (one, two, two):
            [[hit]] = (await deck.call("vector_search", collection="shared", query="fox", filter={"n": 1}))["results"]
            assert (hit["id"], hit["payload"]) == ("a", {"text": "one quick fox", "n": 1})
        caches = (await two.call("server_status"))["caches"]["vectors"]
        assert [caches["tiers"][tier]["answered"] for tier in ("l1", "l2", "l3")] == [1, 1, 0]
        assert caches["collections"]["shared"]["hnsw_index_enabled"] is False, "one point needs no graph"
        assert (await one.call("vector_collections", action="drop", collection="shared"))["deleted"] == 1
        assert not (tmp_path / "one" / "vectors.db").exists()


async def test_a_server_that_is_not_there_fails_the_calls_that_need_it(tmp_path: Path) -> None:
    settings = {"QUARTERDECK_VECTORS_URL": "http://127.0.0.1:1", "QUARTERDECK_VECTORS_KEY": SECRET}
    async with DeckClient(tmp_path, environment=settings) as deck:
        for _ in range(2):
            with pytest.raises(ToolRefusedError, match="cannot connect to http:") as refused:
                await deck.call("vector_search", collection="c", vector=[1])
            assert refused.value.answer["code"] == "storage"
        assert (await deck.call("memory_usage", action="store", key="k", value="v"))["success"]
        assert SECRET not in deck.stderr


@pytest.mark.slow
def test_config_and_doctor_show_no_key(qdrant_shim: QdrantShim, valkey_server: ValkeyServer, tmp_path: Path) -> None:
    settings = environment(qdrant_shim, valkey_server)
    shown = run("config", tmp_path, **settings).stdout
    assert f"QUARTERDECK_VECTORS_URL={qdrant_shim.url}  # environment" in shown
    examined = run("doctor", tmp_path, **settings)
    assert examined.returncode == 0, examined.stdout
    assert f"ok    vectors: Qdrant 1.17.0 answers at {qdrant_shim.url}" in examined.stdout
    assert "ok    cache: Valkey 9." in examined.stdout
    settings |= {"QUARTERDECK_VECTORS_KEY": SECRET, "QUARTERDECK_CACHE_URL": f"redis://u:{SECRET}@127.0.0.1:1"}
    examined = run("doctor", tmp_path, **settings)
    assert examined.returncode == 1
    assert "fail  vectors: " in examined.stdout
    assert "warn  cache: cannot connect to redis://u:***@127.0.0.1:1" in examined.stdout
    for text in (shown, examined.stdout, examined.stderr, run("config", tmp_path, **settings).stdout):
        assert API_KEY not in text
        assert SECRET not in text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("VECTORS_URL", f"https://{SECRET}@h:6333", "an API key is QUARTERDECK_VECTORS_KEY"),
        ("VECTORS_URL", f"qdrant://h:{SECRET}", "give http(s)://host:port"),
        ("CACHE_URL", f"http://u:{SECRET}@h", "give redis://"),
    ],
)
def test_an_address_of_another_kind_is_refused_at_the_start(tmp_path: Path, name: str, value: str, text: str) -> None:
    done = run("serve", tmp_path, **{f"QUARTERDECK_{name}": value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"quarterdeck: QUARTERDECK_{name}: ")
    assert text in done.stderr
    assert SECRET not in done.stderr
