"""The worker protocol, spoken to real worker processes."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from quarterdeck.tools.agents.builtin.catalogue import CREWS, TYPES
from quarterdeck.tools.agents.worker.protocol import decode
from quarterdeck.tools.agents.worker.task import PROGRESS_INTERVAL, Agent, Cancelled, Task

from .driver import PROBE, Driver, FakeDeck, Message, RefusalError


def probe(answer: Any = None) -> Driver:
    return Driver("probe", answer, code=PROBE) if answer else Driver("probe", code=PROBE)


@pytest.mark.parametrize("agent_type", TYPES)
async def test_every_type_gets_ready_with_its_own_capabilities_and_stops(agent_type: str) -> None:
    async with Driver(agent_type) as worker:
        ready = await worker.start()
        capabilities = list(TYPES[agent_type].capabilities)
        assert ready == {"type": "ready", "protocol": 1, "capabilities": capabilities, "controls": ["hold"]}
        await worker.send(type="stop")
        assert await worker.ended() == (0, "", "")


def test_crews_are_made_of_types_that_exist() -> None:
    assert {name: [(m.type, m.name, m.priority) for m in crew] for name, crew in CREWS.items()} == {
        "documents": [
            ("researcher", "Document Analyzer", "medium"),
            ("coder", "Code Extractor", "medium"),
            ("tester", "Quality Validator", "medium"),
            ("reviewer", "Content Reviewer", "medium"),
            ("system-architect", "Structure Analyzer", "medium"),
        ],
        "qdrant": [
            ("query_specialist", "qdrant_query_agent", "high"),
            ("memory_coordinator", "qdrant_memory_agent", "high"),
            ("pattern_discovery", "qdrant_pattern_agent", "medium"),
            ("decision_tracker", "qdrant_decision_agent", "medium"),
            ("synchronization", "qdrant_sync_agent", "low"),
            ("analytics", "qdrant_analytics_agent", "low"),
        ],
    }
    assert all(agent_type.capabilities for agent_type in TYPES.values())
    for agent_type in TYPES.values():
        for capability in agent_type.capabilities.values():
            assert callable(capability.load())
        first = next(iter(agent_type.capabilities.values()))
        assert agent_type.plain is None or agent_type.plain in first.fields


async def test_a_start_imports_nothing_that_is_slow() -> None:
    async with Driver("researcher", options=["-X", "importtime"]) as worker:
        await worker.start()
        await worker.send(type="stop")
        _, _, err = await worker.ended()
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines()}
    assert {"json", "agents.worker.main"} <= imported
    slow = {"typing", "dataclasses", "inspect", "importlib", "importlib.metadata", "asyncio", "hashlib", "ast"}
    slow |= {"agents.builtin.researcher", "agents.builtin.markup", "subprocess", "traceback", "logging"}
    assert not slow & imported


async def test_the_whole_prompt_and_the_agent_reach_the_capability() -> None:
    async with probe() as worker:
        await worker.start("Söldner 🛡", "/a folder")
        agent = ["a-1", "Söldner 🛡", "/a folder"]
        assert await worker.run('{"do": "echo", "text": "naïve — 漢字 🚢"}') == {
            "prompt": {"text": "naïve — 漢字 🚢"},
            "agent": agent,
        }
        assert (await worker.run("any other text"))["prompt"] == {"text": "any other text"}
        assert (await worker.run('["a list"]'))["prompt"] == {"text": '["a list"]'}
        assert (await worker.run("{no json"))["prompt"] == {"text": "{no json"}
        slip = await worker.finish(await worker.begin('{"do": "echo"'))
        assert "begins as JSON but is none" in slip["error"]
        assert (await worker.run('{"count": 3, "text": null}'))["prompt"] == {"count": 3}


async def test_five_megabytes_pass_both_ways() -> None:
    text = "Ümläut and plain words. " * (5 * 1024 * 1024 // 25)
    async with probe() as worker:
        await worker.start()
        assert (await worker.run({"do": "echo", "text": text}))["prompt"] == {"text": text}


async def test_wrong_prompts_name_what_is_right() -> None:
    async with probe() as worker:
        await worker.start()
        assert await worker.refuse('{"do": "fly"}') == (
            "probe cannot do 'fly'; \"do\" is one of: echo, chatter, crash, unspeakable, not_a_number, surrogate, "
            "steps, call, call_and_catch, spin"
        )
        assert "probe cannot do ['echo']" in await worker.refuse('{"do": ["echo"]}')
        fields = "its fields are text: text, count: number from 1"
        assert await worker.refuse('{"do": "echo", "txet": 1}') == f"echo has no field 'txet'; {fields}"
        assert await worker.refuse('{"count": true}') == f"echo: count must be number from 1, got True; {fields}"
        assert "got 0" in await worker.refuse('{"count": 0}')
        assert "text must be text, got [" in await worker.refuse('{"text": [1]}')
    async with Driver("query_specialist") as worker:
        await worker.start()
        refusal = await worker.refuse('{"do": "semantic_search"}')
        assert refusal.startswith("semantic_search needs 'query'; its fields are query (needed): text, limit: number")


async def test_an_exception_is_an_error_and_the_worker_lives_on() -> None:
    async with probe() as worker:
        await worker.start()
        assert await worker.refuse('{"do": "crash"}') == "ZeroDivisionError: as planned"
        assert await worker.refuse('{"do": "unspeakable"}') == "TypeError: Object of type set is not JSON serializable"
        assert (await worker.refuse('{"do": "not_a_number"}')).startswith("ValueError: Out of range float values")
        assert await worker.run('{"do": "surrogate"}') == "? alone"
        await worker.send(type="stop")
        code, _, err = await worker.ended()
    assert code == 0
    assert "ZeroDivisionError: as planned" in err  # with its traceback, for the log
    assert "in crash" in err


async def test_prints_go_to_stderr_and_children_hold_neither_pipe() -> None:
    async with probe() as worker:
        await worker.start()
        assert await worker.run('{"do": "chatter"}') == {"childReads": ""}
        await worker.send(type="stop")
        code, out, err = await worker.ended()
    assert (code, out) == (0, "")
    assert err == "printed\nwritten\nby a child\n"


async def test_progress_is_limited_but_the_first_and_the_last_come() -> None:
    sent: list[dict[str, Any]] = []
    now = [100.0]
    task = Task("t", {}, Agent("a", "n", "/f"), sent.append, lambda _, __: None, lambda: None, lambda: now[0])
    for number in range(1, 101):
        task.progress(number, 100, f"step {number}")
        now[0] += PROGRESS_INTERVAL / 9.5
    task.flush()
    task.flush()
    assert [message["done"] for message in sent] == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
    assert sent[0] == {"type": "progress", "id": "t", "done": 1, "total": 100, "message": "step 1"}

    async with probe() as worker:
        await worker.start()
        assert await worker.run('{"do": "steps"}') == "done"
        done = [message["done"] for message in worker.progress]
    assert done[0] == 0
    assert done[-1] == 10_000
    assert done == sorted(done)
    assert len(done) < 1000


async def test_a_call_is_answered_or_refused_in_the_decks_words() -> None:
    async def answer(tool: str, arguments: dict[str, Any]) -> Any:
        if arguments["action"] == "nonsense":
            raise RefusalError("action: valid are store, retrieve")
        return {"found": True, "value": {"ü": [1, None]}}

    async with probe(answer) as worker:
        await worker.start()
        assert await worker.run('{"do": "call"}') == {"found": True, "value": {"ü": [1, None]}}
        assert worker.calls == [("memory_usage", {"action": "retrieve", "key": "k"})]  # without what is None
        assert await worker.run('{"do": "call_and_catch"}') == "CallError: action: valid are store, retrieve"


async def test_tasks_are_done_in_order_and_a_queued_one_can_be_cancelled() -> None:
    async with probe() as worker:
        await worker.start()
        first, second, third = [await worker.begin({"do": do}) for do in ("call", "echo", "echo")]
        call = await worker.receive()
        await worker.send(type="cancel", id=second)
        await worker.send(type="cancel", id="never heard of")
        await worker.send(type="reply", id=call["id"], result=1)
        assert await worker.receive() == {"type": "result", "id": first, "result": 1}
        assert await worker.receive() == {"type": "cancelled", "id": second}
        assert (await worker.receive())["id"] == third
        await worker.send(type="cancel", id=third)  # too late: it has ended
        assert (await worker.run("on we go"))["prompt"] == {"text": "on we go"}


async def test_a_cancelled_task_does_not_wait_for_the_answer_to_its_call() -> None:
    async with probe() as worker:
        await worker.start()
        task = await worker.begin({"do": "call"})
        held = await worker.receive()
        await worker.send(type="cancel", id=task)
        assert await worker.receive() == {"type": "cancelled", "id": task}
        await worker.begin({"do": "call"})
        call = await worker.receive()
        await worker.send(type="reply", id=held["id"], result="too late")
        await worker.send(type="reply", id=call["id"], result="in time")
        assert (await worker.receive())["result"] == "in time"


async def test_stop_lets_the_tasks_before_it_finish() -> None:
    async with probe() as worker:
        await worker.start()
        task = await worker.begin({"do": "call"})
        call = await worker.receive()
        await worker.send(type="stop")
        await worker.send(type="reply", id=call["id"], result="kept")
        assert await worker.receive() == {"type": "result", "id": task, "result": "kept"}
        assert await worker.ended() == (0, "", "")


async def test_the_end_of_stdin_ends_an_idle_worker() -> None:
    async with probe() as worker:
        await worker.start()
        worker.close_stdin()
        assert await worker.ended() == (1, "", "")
    async with probe() as worker:
        worker.close_stdin()  # before the start
        assert await worker.ended() == (1, "", "")


async def test_the_end_of_stdin_ends_a_worker_that_computes_for_ever() -> None:
    async with probe() as worker:
        await worker.start()
        await worker.begin({"do": "spin"})
        assert (await worker.receive())["message"] == "spinning"
        worker.close_stdin()
        assert await worker.ended() == (1, "", "")


async def test_the_end_of_stdin_ends_a_worker_that_waits_for_an_answer() -> None:
    async with probe() as worker:
        await worker.start()
        await worker.begin({"do": "call"})
        assert (await worker.receive())["type"] == "call"
        worker.close_stdin()
        assert await worker.ended() == (1, "", "")


def many_documents(number: int, sentences: int) -> dict[str, str]:
    """Documents whose comparison takes long: nearly the same words in every sentence."""
    rng = random.Random(7)
    vocabulary = [a + b + c for a in "bdgk" for b in "aeo" for c in ("n", "rt", "st")]
    texts: dict[str, str] = {}
    for document in range(number):
        lines = [" ".join(rng.sample(vocabulary, 20)).capitalize() + "." for _ in range(sentences)]
        texts[f"uploads/doc-{document}.md"] = f"# Document {document}\n\n" + "\n\n".join(lines)
    return texts


async def test_cancel_takes_effect_at_a_safe_point_of_real_work() -> None:
    deck = FakeDeck(many_documents(20, 150))
    async with Driver("researcher", deck) as worker:
        await worker.start()
        task = await worker.begin({"do": "compare_documents", "uploads": list(deck.uploads)})
        while " / " not in (message := await worker.receive()).get("message", ""):  # until two are compared
            if message["type"] == "call":
                await worker.serve(message)
        await worker.send(type="cancel", id=task)
        while (message := await worker.receive())["type"] == "progress":
            assert message["done"] < 190
        assert message == {"type": "cancelled", "id": task}
        assert not deck.memory
        assert (await worker.run({"text": "# Alive\n\nThe worker goes on."}))["documents"][0]["title"] == "Alive"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"garbage\n", "not a JSON line"),
        (b"\n", "not a JSON line"),
        (b"\xff\xfe\n", "not a JSON line"),
        (b"[" * 100_000 + b"\n", "not a JSON line"),
        (b"[1]\n", "not a message (start, task, cancel, hold, release, reply, stop)"),
        (b'{"type": "dance"}\n', "not a message"),
        (b'{"type": ["task"]}\n', "not a message"),
        (b'{"type": "task", "id": "1"}\n', "task without a valid 'prompt'"),
        (b'{"type": "cancel", "id": 1}\n', "cancel without a valid 'id'"),
        (b'{"type": "reply", "id": 1}\n', "reply with neither 'result' nor 'error'"),
        (b'{"type": "reply", "id": 1, "error": null}\n', "reply with neither 'result' nor 'error'"),
    ],
)
async def test_a_line_that_is_no_message_ends_the_worker_with_one_clear_line(line: bytes, complaint: str) -> None:
    async with probe() as worker:
        await worker.start()
        await worker.begin({"do": "spin"})  # in the middle of work too
        assert (await worker.receive())["type"] == "progress"
        await worker.send_raw(line)
        code, out, err = await worker.ended()
    assert (code, out) == (2, "")
    assert err.startswith(f"worker: {complaint}")
    assert err.count("\n") == 1


async def test_a_wrong_start_is_refused() -> None:
    start: Message = {"type": "start", "protocol": 1, "agentId": "a", "agentType": "coder", "name": "n"}
    start |= {"folder": "/f", "capabilities": []}
    wrong: list[tuple[Message, str]] = [
        ({**start, "protocol": 2}, "the server speaks protocol 2, this worker 1"),
        ({"type": "stop"}, "stop before start"),
        ({**start, "name": None}, "start without a valid 'name'"),
    ]
    for first, complaint in wrong:
        async with Driver("coder") as worker:
            await worker.send(**first)
            code, out, err = await worker.ended()
            assert (code, out) == (2, "")
            assert err.startswith(f"worker: {complaint}")
    async with Driver("coder") as worker:
        await worker.start()
        await worker.send(**start)
        assert await worker.ended() == (2, "", "worker: a second start\n")
    async with probe() as worker:
        await worker.start()
        await worker.begin({"do": "spin"})
        assert (await worker.receive())["id"] == "q-1"
        await worker.send(type="task", id="q-1", prompt="again")
        assert await worker.ended() == (2, "", "worker: a second task 'q-1' while the first is not done\n")
    async with Driver("admiral") as worker:
        code, _, err = await worker.ended()
        assert code == 2
        assert err == f"worker: unknown agent type 'admiral'; built-in types: {', '.join(TYPES)}\n"


def test_a_field_of_a_later_version_does_no_harm() -> None:
    message = {"type": "stop", "later": 1}
    assert decode(json.dumps(message).encode()) == message


def test_progress_is_the_safe_point() -> None:
    cancelled = asyncio.Event()
    sent: list[dict[str, Any]] = []
    called: list[str] = []

    def safe_point() -> None:
        if cancelled.is_set():
            raise Cancelled

    task = Task("t", {}, Agent("a", "n", "/f"), sent.append, lambda tool, _: called.append(tool), safe_point)
    task.progress(0, 1)
    cancelled.set()
    for step in (lambda: task.progress(1, 1), task.check, lambda: task.call("memory_usage")):
        with pytest.raises(Cancelled):
            step()
    assert len(sent) == 1
    assert not called
