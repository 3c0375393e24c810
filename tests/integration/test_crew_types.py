"""The decision tracker, the synchroniser and the analyst in a whole deck, within the rights that they were given."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from quarterdeck.server.client import DeckClient

Json = dict[str, Any]


async def work(deck: DeckClient, agent: str, **prompt: Any) -> Json:
    query = await deck.call("query_start", agentId=agent, prompt=json.dumps(prompt))
    [done] = (await deck.call("query_wait", queryIds=[query["queryId"]], timeout=60))["results"]
    return done


async def test_each_does_its_work_with_no_more_than_its_rights(tmp_path: Path) -> None:
    async with DeckClient(tmp_path / "deck", cwd=tmp_path) as deck:
        wanted = [
            {"type": "decision_tracker", "name": "d"},
            {"type": "synchronization", "name": "bound"},
            {"type": "synchronization", "name": "free", "permissionMode": "acceptEdits"},
            {"type": "analytics", "name": "a"},
        ]
        spawned = await deck.call("agents_spawn_parallel", agents=wanted)
        tracker, bound, free, analyst = [result["agentId"] for result in spawned["results"]]

        stored = await work(deck, tracker, do="decision_storage", title="Use SQLite", dependsOn=["Keep it local"])
        assert stored["result"]["missing"] == ["keep-it-local"]
        impact = await work(deck, tracker, do="impact_analysis", decision="keep it local")
        assert [one["path"] for one in impact["result"]["affected"]] == [["keep-it-local", "use-sqlite"]]

        pair = {"do": "bidirectional_sync", "left": "decisions", "right": "copy"}
        refused = await work(deck, bound, **pair)
        assert refused["status"] == "failed"
        assert "permission mode default writes only to sync, not to 'copy'" in refused["error"]
        assert (await work(deck, free, **pair))["result"]["copied"] == {"left": 0, "right": 1}
        copied = await work(deck, free, **{**pair, "kind": "vectors"})
        assert copied["result"]["copied"] == {"left": 0, "right": 1}
        found = await deck.call("vector_search", collection="copy", query="sqlite")
        assert [hit["id"] for hit in found["results"][0]] == ["use-sqlite"]

        export = {"do": "git_integration", "namespaces": ["copy"], "collections": ["copy"]}
        first = (await work(deck, bound, **export))["result"]
        second = (await work(deck, free, **export))["result"]  # one folder for all agents of the type
        assert (second["committed"], second["commit"]) == (False, first["commit"])
        repository = tmp_path / "deck" / "agents" / "synchronization" / "exports"
        log = subprocess.run(
            ["git", "-C", repository, "log", "--format=%H"], capture_output=True, text=True, check=True
        )
        assert log.stdout.split() == [first["commit"]]

        named = {"do": "disaster_recovery", "name": "s"}
        await work(deck, bound, **named, action="snapshot", namespaces=["copy"])
        await deck.call("memory_usage", action="delete", namespace="copy", key="use-sqlite")
        assert "writes only to sync" in (await work(deck, bound, **named, action="restore"))["error"]
        [restored] = (await work(deck, free, **named, action="restore"))["result"]["restored"]
        assert restored["written"] == 1
        kept = await deck.call("memory_usage", action="retrieve", namespace="copy", key="use-sqlite")
        assert (kept["value"]["title"], kept["expiresAt"]) == ("Use SQLite", None)

        usage = (await work(deck, analyst, do="usage_analytics"))["result"]
        assert usage["memory"]["copy"]["count"] == 1
        assert usage["calls"]["agents_spawn_parallel"]["calls"] == 1
        performance = (await work(deck, analyst, do="performance_monitoring"))["result"]
        assert performance["queries"]["types"]["synchronization"]["statuses"] == {"completed": 6, "failed": 2}
        assert performance["agents"]["synchronization"]["alive"] == 2
        cost = (await work(deck, analyst, do="cost_tracking"))["result"]
        assert cost["tokens"] == {"total": None, "known": 0}
        assert cost["types"]["synchronization"]["cpuSeconds"]["total"] > 0
        advice = (await work(deck, analyst, do="optimization_recommendations"))["result"]
        assert advice["recommendations"][0]["rule"] == "failing-type"
        assert advice["recommendations"][0]["evidence"]["failed"] == 2
