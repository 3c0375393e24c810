"""The steps of the demo. Each does something through the server, then looks for itself whether it is so."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import psutil

from quarterdeck.tools.agents import processes

from ..client import DeckClient, ToolRefusedError
from . import kept
from .documents import MOST, Document, questions
from .queries import Queries
from .report import CheckFailedError, Report

WORK = {
    "researcher": "analyze_document",
    "coder": "extract_code",
    "tester": "validate_document",
    "reviewer": "review_document",
    "system-architect": "map_structure",
}
"""What each type of the crew is asked to do with a document."""

STANDSTILL = 0.5  # seconds over which a paused agent is watched
DOUBLINGS = 8  # of the input of a query that ends before it can be paused
SURVIVAL = 10.0  # seconds after which an agent counts as a survivor of its server

Agent = dict[str, Any]  # an entry of agents_list


class Demo:
    """What one step leaves for the next."""

    def __init__(
        self, deck: DeckClient, documents: Sequence[Document], indexed: Sequence[Document], report: Report
    ) -> None:
        """`indexed` are those of the documents that are searched."""
        self._deck = deck
        self._documents = documents
        self._indexed = frozenset(document.path for document in indexed)
        self._questions = questions(indexed, 3)
        self._report = report
        self._check = report.check
        self._queries = Queries(deck)
        self._uploads: dict[str, Document] = {}  # by key
        self._agents: list[Agent] = []

    @property
    def steps(self) -> Sequence[tuple[str, Callable[[], Awaitable[str]]]]:
        """Title and function of each; a function returns what was done.

        They raise CheckFailedError, ToolRefusedError, or what the client raises when the server is gone.
        """
        return (
            ("Start the server over stdio", self.start),
            ("Upload in parallel", self.upload),
            ("Spawn the documents crew in parallel", self.spawn),
            ("Work through the documents, round-robin", self.work),
            ("Index the texts", self.index),
            ("Search", self.search),
            ("Pause and resume a running query", self.pause),
            ("Show history and records", self.history),
            ("Kill the server and start it again", self.survive),
        )

    async def start(self) -> str:
        await self._deck.start()
        client = self._deck.client
        tools = [tool.name for tool in (await client.list_tools()).tools]
        self._report.say(f"   {len(tools)} tools: {', '.join(tools)}")
        server = await self._server()
        self._check(f"process {server.pid} is a child of this one", psutil.Process() in server.parents())
        return f"pid {server.pid}, protocol {client.protocol_version}"

    async def upload(self) -> str:
        self._uploads = await self._upload(self._documents)
        listed = [item async for item in kept.pages(self._deck, "uploads", "uploads", action="list")]
        expected = {key: document.sha256 for key, document in self._uploads.items()}
        count = len(self._documents)
        self._check(f"the store lists {count} uploads", len(listed) == len(expected) == count)
        self._check("each has the sha256 of its file", {item["key"]: item["sha256"] for item in listed} == expected)
        key = listed[0]["key"]
        read = await self._deck.call("uploads", action="read", key=key, length=1 << 20)
        self._check(f"{key} reads back as it was", read["content"].encode() == self._uploads[key].contents)
        return f"{count} documents, {sum(len(d.contents) for d in self._documents) / 1000:.0f} KB"

    async def spawn(self) -> str:
        answer = await self._deck.call("agents_spawn_parallel", crew="documents", batchSize=len(WORK))
        listed = (await self._deck.call("agents_list"))["agents"]
        self._agents = sorted(listed, key=lambda agent: list(WORK).index(agent["type"]))
        rows = [("   " + a["name"], a["type"], str(a["pid"]), f"{a['spawnTime']:.0f} ms") for a in self._agents]
        self._report.table(("   agent", "type", "pid", "ready after"), rows)
        self._check(
            f"the {len(WORK)} spawned are listed, one of each type",
            [agent["type"] for agent in self._agents] == list(WORK)
            and {agent["agentId"] for agent in listed} == {one["agentId"] for one in answer["results"]},
        )
        below = {process.pid for process in _alive(processes.tree(await self._server()))}
        self._check("each pid is a living process below the server", {a["pid"] for a in listed} <= below)
        return f"{len(listed)} processes in {answer['performance']['totalTime']:.0f} ms"

    async def work(self) -> str:
        turns = [(key, self._agents[n % len(self._agents)]) for n, key in enumerate(self._uploads)]
        ids = [await self._queries.ask(agent["agentId"], do=WORK[agent["type"]], upload=key) for key, agent in turns]
        busy = [agent for agent in self._agents if self._queries.of(agent["agentId"])]
        with self._report.bars() as bars:

            async def follow(agent: Agent) -> list[dict[str, Any]]:
                mine = self._queries.of(agent["agentId"])
                bar = bars.add_task(agent["name"], total=len(mine))
                return await self._queries.wait(mine, lambda done: bars.update(bar, completed=done))

            followed = await asyncio.gather(*(follow(agent) for agent in busy))
        results = {result["queryId"]: result for mine in followed for result in mine}
        self._check(f"{len(ids)} queries completed", results.keys() == set(ids))
        memories = await kept.memories(self._deck)
        stored = [memories.get((kept.DOCUMENTS, results[query_id]["result"]["stored"]["keys"][0])) for query_id in ids]
        self._check(
            f"memory holds {len(ids)} results, each of its own document",
            [memory and memory.value["upload"] for memory in stored] == list(self._uploads),
        )
        cpu = sum(result["usage"]["cpuSeconds"] for result in results.values())
        return f"{len(ids)} documents, {cpu:.1f} s of CPU in {len(busy)} processes"

    async def index(self) -> str:
        uploads = [key for key, document in self._uploads.items() if document.path in self._indexed]
        total = len(uploads)
        query_id = await self._queries.ask(self._researcher, do="index_document", uploads=uploads)
        with self._report.bars() as bars:
            bar = bars.add_task("indexing", total=total)
            [query] = await self._queries.wait([query_id], lambda share: bars.update(bar, completed=share * total))
        chunks = sum(document["chunks"] for document in query["result"]["documents"])
        count = await kept.count_points(self._deck)
        self._check(f"the collection has {count} points, one for each chunk of the documents", count == chunks > 0)
        which = "" if total == len(self._uploads) else ", the shortest: a sentence model takes its time"
        return f"{count} chunks of {total} documents{which}"

    async def search(self) -> str:
        began = time.monotonic()
        found = await kept.search(self._deck, [question.sentence for question in self._questions])
        took = (time.monotonic() - began) * 1000
        for question, hits in zip(self._questions, found, strict=True):
            self._report.say(f'   "{question.sentence}"', "italic")
            best = [self._uploads[hit["payload"]["upload"]] for hit in hits]
            for hit, document in zip(hits, best, strict=True):
                self._report.say(f"      {hit['score']:.3f}  {document.name}, line {hit['payload']['line']}")
            top = {document.path for document in best[:1]}
            self._check("the best hit is the document with this sentence", bool(top & question.answers))
        described = await self._deck.call("vector_collections", action="describe", collection=kept.DOCUMENTS)
        return f"{len(found)} searches in {took:.0f} ms with the embedder {described['collections'][0]['embedder']}"

    async def pause(self) -> str:
        query_id, outcome = await self._pause_midway()
        before = await self._queries.entry(query_id)
        done, total = before["progress"]["done"], before["progress"]["total"]
        self._check("the query is paused", (outcome["status"], before["status"]) == ("applied", "paused"))
        tree = processes.tree(psutil.Process(self._agents[0]["pid"]))
        used = processes.cpu_seconds(tree)
        await asyncio.sleep(STANDSTILL)
        used = processes.cpu_seconds(tree) - used
        stopped = all(process.status() == psutil.STATUS_STOPPED for process in tree)
        self._check(f"its process is stopped and used {used:.2f} s of CPU in {STANDSTILL} s", stopped and not used)
        after = await self._queries.entry(query_id)
        self._check(f"it stands at {done} of {total} pairs", after["progress"] == before["progress"])

        resumed = await self._deck.call("query_control", action="resume", queryId=query_id)
        self._check("it is resumed", resumed["status"] == "applied")
        with self._report.bars() as bars:
            bar = bars.add_task("comparing", total=total, completed=done)
            await self._queries.wait([query_id], lambda share: bars.update(bar, completed=share * total))
        end = (await self._queries.entry(query_id))["progress"]["done"]
        self._check(f"it went on from {done} to {end} and completed", done < end == total)
        return f"{len(self._uploads)} documents compared, paused after {done} of {total} pairs"

    async def _pause_midway(self) -> tuple[str, dict[str, Any]]:
        """Start to compare all documents with each other and pause that in the middle: the query's id, the outcome.

        Where they are so short that it ends before, copies of them are uploaded and compared as well.
        """
        for _ in range(DOUBLINGS):
            pairs = len(self._uploads) * (len(self._uploads) - 1) // 2
            if pairs > len(self._uploads):  # else its progress cannot be told from that of reading the documents
                query_id = await self._queries.ask(
                    self._researcher, do="compare_documents", uploads=list(self._uploads)
                )
                try:
                    if await self._queries.reaches(query_id, pairs):
                        return query_id, await self._deck.call("query_control", action="pause", queryId=query_id)
                except ToolRefusedError as exc:
                    if exc.answer.get("status") != "completed":
                        raise
            copies = list(self._uploads.values())
            self._report.say(f"   compared too fast to be paused (uploads: {len(copies)}): uploading copies")
            for start in range(0, len(copies), MOST):
                self._uploads |= await self._upload(copies[start : start + MOST])
        raise CheckFailedError(f"comparing {len(self._uploads)} documents ends before it can be paused")

    async def history(self) -> str:
        memories = await kept.memories(self._deck)
        rows: list[tuple[str, str, str, str, str]] = []
        for agent in self._agents:
            agent_id = agent["agentId"]
            answer = await self._deck.call("agents_list", agentId=agent_id, includeHistory=True)
            events = [event["event"] for event in answer["agents"][0]["history"]]
            records = kept.records_of(memories, agent_id)
            given = len(self._queries.of(agent_id))
            last = records.get(f"agent-{agent_id}-complete", {"status": "-", "duration": 0})
            self._check(
                f"{agent['name']}: spawned, {given} queries completed, recorded by the tracker",
                events.count("spawned") == 1
                and events.count("query_completed") == given
                and f"agent-{agent_id}-spawn" in records
                and last["status"] == ("success" if given else "-"),
            )
            counted = ", ".join(f"{event} {times}" for event, times in Counter(events).items())
            rows.append(("   " + agent["name"], counted, str(len(records)), last["status"], f"{last['duration']} ms"))
        self._report.table(("   agent", "events", "records", "last query", "took"), rows)
        return f"{len(rows)} agents, {len(memories)} memories"

    async def survive(self) -> str:
        sentences = [question.sentence for question in self._questions]
        before = await kept.look(self._deck, sentences, self._queries.ids)
        family = [member for agent in self._agents for member in processes.tree(psutil.Process(agent["pid"]))]
        await self._deck.kill()
        began = time.monotonic()
        while (survivors := _alive(family)) and time.monotonic() - began < SURVIVAL:  # noqa: ASYNC110  nobody tells when it ends
            await asyncio.sleep(0.01)
        self._check(f"none of the {len(family)} agent processes outlived it", not survivors)

        await self._deck.start()
        after = await kept.look(self._deck, sentences, self._queries.ids)
        digests = {key: document.sha256 for key, document in self._uploads.items()}
        self._check(f"all {len(before.memories)} memories and records are there", after.memories == before.memories)
        self._check(f"all {len(digests)} uploads have the sha256 of their files", after.uploads == digests)
        self._check(f"all {before.points} vectors are there", after.points == before.points)
        self._check("the searches find the same with the same scores", after.hits == before.hits)
        self._check(f"all {len(before.results)} query results are the same", after.results == before.results)
        listed = (await self._deck.call("agents_list", includeHistory=True))["agents"]
        self._check(
            f"the {len(listed)} agents are listed as interrupted",
            [agent["status"] for agent in listed] == ["interrupted"] * len(self._agents),
        )
        return f"{len(after.memories)} memories, {len(digests)} uploads, {after.points} vectors found again"

    # --- shared

    @property
    def _researcher(self) -> str:
        return str(self._agents[0]["agentId"])

    async def _server(self) -> psutil.Process:
        return psutil.Process((await self._deck.call("server_status"))["pid"])

    async def _upload(self, documents: Sequence[Document]) -> dict[str, Document]:
        answer = await self._deck.call("upload", files=[{"path": str(document.path)} for document in documents])
        if answer.get("warnings"):
            raise CheckFailedError("; ".join(answer["warnings"]))
        return dict(zip((file["path"] for file in answer["files"]), documents, strict=True))


def _alive(members: Iterable[psutil.Process]) -> list[psutil.Process]:
    alive: list[psutil.Process] = []
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            if member.is_running() and member.status() != psutil.STATUS_ZOMBIE:
                alive.append(member)
    return alive
