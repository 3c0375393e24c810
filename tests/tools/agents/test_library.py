"""The second process of an agent: it works for its task alone, and ends with it, whatever ends that."""

from __future__ import annotations

import asyncio
import sys
from base64 import b64encode
from importlib import import_module
from itertools import count

import psutil
import pytest

from quarterdeck.tools.agents import processes
from quarterdeck.tools.agents.library.__main__ import FUNCTIONS
from quarterdeck.tools.agents.worker.library import LibraryError, call_library
from quarterdeck.tools.agents.worker.task import Agent, Cancelled, Task
from tests.until import until

from .driver import Driver, FakeDeck, Message

LONG = b"<html>" + b"<p>word <b>bold</b></p>" * 500_000  # about a minute's work


def task(looks: int | None = None) -> Task:
    """Of a task that turns out to be cancelled after so many looks."""
    seen = count()

    def safe_point() -> None:
        if looks is not None and next(seen) >= looks:
            raise Cancelled

    return Task("t", {}, Agent("a", "n", "folder"), lambda _: None, lambda _, __: None, safe_point)


def children() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [child for child in found if child.name() and "quarterdeck.tools.agents.library" in child.cmdline()]


def test_every_function_of_the_table_can_be_called() -> None:
    for path in FUNCTIONS.values():
        module, name = path.split(".")
        assert callable(getattr(import_module(f"quarterdeck.tools.agents.library.{module}"), name))


def test_a_function_answers_refuses_or_fails_in_plain_text(capfd: pytest.CaptureFixture[str]) -> None:
    found = call_library(task(), "extract_text", contents="bmHDr3Zl", name="a.txt", content_type=None)
    assert found == {"format": "text", "title": None, "sections": [{"text": "naïve", "page": None}]}
    with pytest.raises(LibraryError, match=r"^a\.pdf cannot be read as PDF: "):
        call_library(task(), "extract_text", contents="", name="a.pdf", content_type=None)
    assert capfd.readouterr().err == ""
    with pytest.raises(LibraryError, match="KeyError: 'fly'"):
        call_library(task(), "fly")
    assert "Traceback" in capfd.readouterr().err  # for the log
    assert not children()


def test_a_request_larger_than_any_pipe_arrives_whole() -> None:
    text = "Whales sing. " * 1_000_000
    contents = b64encode(text.encode()).decode()
    found = call_library(task(), "extract_text", contents=contents, name="a.txt", content_type="text/plain")
    assert found["sections"][0]["text"] == text


def test_a_cancelled_task_takes_its_process_along() -> None:
    contents = b64encode(LONG).decode()
    for looks in (0, 1, 10):  # before it starts, while it does, and while it works
        with pytest.raises(Cancelled):
            call_library(task(looks), "extract_text", contents=contents, name="a.html", content_type=None)
        assert not children()


async def begin_long_work(worker: Driver) -> tuple[asyncio.Task[Message], psutil.Process]:
    """Returns what waits for the last message of the task, and the process that works, once it does."""
    await worker.start()
    task_id = await worker.begin({"do": "analyze_document", "upload": "uploads/long.html"})
    ending = asyncio.create_task(worker.finish(task_id))
    root = psutil.Process(worker.process.pid)
    await until(root.children)
    [child] = root.children()
    await until(lambda: child.cpu_times().user > 0.3)
    return ending, child


def long_worker() -> Driver:
    deck = FakeDeck()
    deck.files["uploads/long.html"] = LONG
    return Driver("researcher", deck)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_it_is_an_isolated_child_with_the_workers_environment() -> None:
    async with long_worker() as worker:
        ending, child = await begin_long_work(worker)
        assert child.cmdline() == [sys.executable, "-I", "-m", "quarterdeck.tools.agents.library", "extract_text"]
        root = psutil.Process(worker.process.pid)
        assert child.environ() == {**root.environ(), "OMP_WAIT_POLICY": "PASSIVE"}
        ending.cancel()


async def test_cancel_ends_it_and_the_worker_goes_on() -> None:
    async with long_worker() as worker:
        ending, child = await begin_long_work(worker)
        await worker.send(type="cancel", id="q-1")
        assert await ending == {"type": "cancelled", "id": "q-1"}
        assert has_ended(child)
        assert (await worker.run({"text": "# Alive\n\nStill."}))["documents"][0]["title"] == "Alive"


async def test_its_death_is_told_and_the_worker_goes_on() -> None:
    async with long_worker() as worker:
        ending, child = await begin_long_work(worker)
        child.kill()
        assert (await ending)["error"] == "extract_text: the process of the libraries was ended by signal 9"
        assert (await worker.run({"text": "# Alive\n\nStill."}))["documents"][0]["title"] == "Alive"


async def test_it_ends_with_its_worker_even_if_nobody_ends_it() -> None:
    async with long_worker() as worker:
        ending, child = await begin_long_work(worker)
        worker.process.kill()
        await until(lambda: has_ended(child))
        with pytest.raises(EOFError):
            await ending


async def test_what_freezes_or_ends_the_agents_tree_reaches_it() -> None:
    async with long_worker() as worker:
        ending, child = await begin_long_work(worker)
        root = psutil.Process(worker.process.pid)
        frozen = await processes.freeze(root)
        assert frozen is not None
        assert set(frozen.pids) == {root.pid, child.pid}
        assert await processes.thaw(root)
        before = child.cpu_times().user
        await until(lambda: child.cpu_times().user > before)
        await processes.end(root, grace=0)
        await until(lambda: has_ended(child))
        with pytest.raises(EOFError):
            await ending
