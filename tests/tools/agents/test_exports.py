"""Exports to git and snapshots in a real worker: real files, the real `git`, the real memory tools."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.tools.agents.builtin.exports import file_name
from quarterdeck.tools.agents.builtin.stores import Namespace
from quarterdeck.tools.agents.worker.task import Agent, Task

from .driver import Driver
from .real_tools import RealTools, real_tools


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[RealTools]:
    async with real_tools(tmp_path) as tools:
        yield tools


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder of the type"
    path.mkdir()
    return path


@pytest.fixture
async def sync(tools: RealTools, folder: Path) -> AsyncIterator[Driver]:
    async with Driver("synchronization", tools) as worker:
        await worker.start(folder=str(folder))
        yield worker


async def put(tools: RealTools, namespace: str, **values: Any) -> None:
    for key, value in values.items():
        await tools.memory("store", namespace, key, value=value)


def git(repository: str, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", repository, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def test_an_export_is_committed_and_the_same_again_is_not(tools: RealTools, sync: Driver) -> None:
    await put(tools, "notes", zebra={"b": 1, "a": "ünïcode"}, ant=None)
    export = {"do": "git_integration", "namespaces": ["notes", "a/../b"]}
    first = await sync.run({**export, "message": "--amend\n\nnot an option"})
    repository = first["repository"]
    lines = '{"content":null,"key":"ant"}\n{"content":{"a":"ünïcode","b":1},"key":"zebra"}\n'
    assert first["committed"]
    assert first["files"] == [
        {"file": "memory/notes.jsonl", "records": 2, "bytes": len(lines.encode())},
        {"file": "memory/a%2F..%2Fb.jsonl", "records": 0, "bytes": 0},
    ]
    assert git(repository, "rev-parse", "HEAD") == first["commit"]
    assert git(repository, "show", "HEAD:memory/notes.jsonl") + "\n" == lines
    assert git(repository, "show", "-s", "--format=%an <%ae>%n%B") == (
        "Quarterdeck <quarterdeck@localhost>\n--amend\n\nnot an option"
    )
    await put(tools, "notes", zebra={"a": "ünïcode", "b": 1})  # a new version of the same content
    again = await sync.run(export)
    assert (again["committed"], again["commit"]) == (False, first["commit"])
    assert again["message"] == "nothing has changed since the last commit"
    await put(tools, "notes", zebra=2)
    second = await sync.run({"do": "git_integration", "namespaces": ["notes"]})
    assert git(repository, "rev-list", "HEAD").splitlines() == [second["commit"], first["commit"]]
    assert git(repository, "show", "--format=%s", "--name-only", "HEAD") == (
        "Export memory/notes.jsonl\n\nmemory/notes.jsonl"
    )
    assert git(repository, "status", "--porcelain") == ""


async def test_git_has_nothing_of_the_user(
    tools: RealTools, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "hook-ran"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text(f"#!/bin/sh\ntouch '{ran}'\nexit 1\n")
    (hooks / "pre-commit").chmod(0o755)
    settings = f"[user]\nname = Somebody\n[commit]\ngpgSign = true\n[core]\nhooksPath = {hooks}\n"
    (tmp_path / ".gitconfig").write_text(settings)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    await put(tools, "notes", a=1)
    async with Driver("synchronization", tools) as sync:
        await sync.start(folder=str(folder))
        answer = await sync.run({"do": "git_integration", "namespaces": ["notes"]})
    monkeypatch.undo()
    assert git(answer["repository"], "show", "-s", "--format=%an") == "Quarterdeck"
    assert not ran.exists()
    assert not (tmp_path / "elsewhere").exists()


async def test_git_that_is_missing_fails_or_was_killed(
    tools: RealTools, sync: Driver, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(tools, "notes", a=1)
    export = {"do": "git_integration", "namespaces": ["notes"]}
    monkeypatch.setenv("PATH", str(tmp_path))
    async with Driver("synchronization", tools) as without:
        await without.start(folder=str(folder))
        assert "git is not installed" in await without.refuse(export)
    monkeypatch.undo()
    answer = await sync.run(export)
    git_folder = Path(answer["repository"]) / ".git"
    (git_folder / "index.lock").touch()  # as a killed git leaves it
    assert not (await sync.run(export))["committed"]
    (git_folder / "HEAD").write_text("broken")
    assert "git add failed: fatal: not a git repository" in await sync.refuse(export)
    assert "needs namespaces" in await sync.refuse({"do": "git_integration"})


async def test_two_agents_do_not_work_in_the_folder_at_once(tools: RealTools, sync: Driver, folder: Path) -> None:
    await put(tools, "notes", a=1)
    export = {"do": "git_integration", "namespaces": ["notes"]}
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert "another agent is at work" in await sync.refuse(export)
    os.close(descriptor)
    assert (await sync.run(export))["committed"]


async def test_a_snapshot_comes_back(tools: RealTools, sync: Driver, folder: Path) -> None:
    assert await sync.run({"do": "disaster_recovery"}) == {"snapshots": []}
    await put(tools, "notes", kept=[None, 1.5], lost="x", changed={"b": 1, "a": 2})
    await tools.memory("store", "notes", "brief", value=1, ttl=10)
    await tools.memory("store", "notes", "for ever", value=1, ttl=0)
    snapshot = {"do": "disaster_recovery", "action": "snapshot", "namespaces": ["notes", "empty"]}
    taken = await sync.run({**snapshot, "name": "monday"})
    stores = [(store["kind"], store["name"], store["records"]) for store in taken["stores"]]
    assert stores == [("memory", "notes", 5), ("memory", "empty", 0)]
    assert await sync.run({"do": "disaster_recovery", "action": "list"}) == {"snapshots": [taken]}
    assert "there is a snapshot 'monday' already" in await sync.refuse({**snapshot, "name": "monday"})

    lifetime = (await tools.memory("retrieve", "notes", "lost"))["expiresAt"]
    tools.clock.advance(10)
    await tools.memory("delete", "notes", "lost")
    await tools.memory("delete", "notes", "for ever")
    await put(tools, "notes", changed=0, newer=1)
    restore = {"do": "disaster_recovery", "action": "restore", "name": "monday"}
    restored = await sync.run(restore)
    figures: dict[str, Any] = {"written": 3, "unchanged": 1, "expired": 1, "others": 1, "missed": []}
    nothing: dict[str, Any] = {"written": 0, "unchanged": 0, "expired": 0, "others": 0, "missed": []}
    assert restored == {
        "name": "monday",
        "createdAt": taken["createdAt"],
        "restored": [
            {"kind": "memory", "name": "notes", **figures},
            {"kind": "memory", "name": "empty", **nothing},
        ],
    }
    page = await tools("memory_usage", {"action": "list", "namespace": "notes"})
    values = {entry["key"]: json.dumps(entry["value"]) for entry in page["entries"]}
    assert values == {
        "kept": "[null, 1.5]",
        "lost": '"x"',
        "changed": '{"b": 1, "a": 2}',  # fields in their order
        "for ever": "1",
        "newer": "1",
    }
    ends = {entry["key"]: entry["expiresAt"] for entry in page["entries"]}
    assert (ends["lost"], ends["for ever"]) == (lifetime, None)
    assert (await sync.run({**restore, "namespaces": ["empty"]}))["restored"][0]["name"] == "empty"
    assert "does not have memory other; it has memory notes" in await sync.refuse({**restore, "namespaces": ["other"]})


async def test_a_restore_does_not_overwrite_what_changes_meanwhile(tools: RealTools, sync: Driver) -> None:
    await put(tools, "notes", a=1, b=1)
    named = {"do": "disaster_recovery", "name": "x"}
    await sync.run({**named, "action": "snapshot", "namespaces": ["notes"]})
    await put(tools, "notes", a=2, b=2)
    rivals = iter((3,))

    async def interfere(tool: str, arguments: dict[str, Any]) -> None:
        if arguments["action"] == "store" and (value := next(rivals, None)):
            await put(tools, "notes", a=value)

    tools.before = interfere
    [restored] = (await sync.run({**named, "action": "restore"}))["restored"]
    assert (restored["written"], restored["missed"]) == (1, ["a"])
    assert (await tools.memory("retrieve", "notes", "a"))["value"] == 3


@pytest.mark.parametrize("damage", ["file", "length", "missing", "manifest", "no manifest"])
async def test_a_damaged_snapshot_is_told_before_anything_is_written(
    tools: RealTools, sync: Driver, folder: Path, damage: str
) -> None:
    await put(tools, "first", a=1)
    await put(tools, "second", a=1)
    snapshot = {"do": "disaster_recovery", "action": "snapshot", "namespaces": ["first", "second"], "name": "x"}
    await sync.run(snapshot)
    await put(tools, "first", a=2)
    place = folder / "snapshots" / "x"
    second, manifest = place / "memory" / "second.jsonl", place / "manifest.json"
    match damage:
        case "file":
            second.write_bytes(second.read_bytes().replace(b"1", b"2"))
        case "length":
            second.write_bytes(second.read_bytes() * 2)
        case "missing":
            second.unlink()
        case "manifest":
            manifest.write_text(manifest.read_text().replace('"second"', '"third"'))
        case _:
            manifest.unlink()
    assert "snapshot 'x' is damaged: " in await sync.refuse(
        {"do": "disaster_recovery", "action": "restore", "name": "x"}
    )
    assert (await tools.memory("retrieve", "first", "a"))["value"] == 2
    [listed] = (await sync.run({"do": "disaster_recovery"}))["snapshots"]
    assert ("error" in listed) == ("manifest" in damage)


async def test_a_snapshot_is_whole_or_not_there(tools: RealTools, sync: Driver, folder: Path) -> None:
    await put(tools, "notes", a=1)
    snapshot = {"do": "disaster_recovery", "action": "snapshot", "namespaces": ["notes"]}
    left_over = folder / "snapshots" / ".partial" / "memory"
    left_over.mkdir(parents=True)  # of one that was killed
    (left_over / "stray.jsonl").touch()

    assert "letters, digits, _ and -" in await sync.refuse({**snapshot, "name": "../up"})
    assert "needs namespaces" in await sync.refuse({"do": "disaster_recovery", "action": "snapshot"})
    assert "namespace" in await sync.refuse({**snapshot, "namespaces": ["notes", "bad\nname"]})
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == []
    taken = await sync.run(snapshot)
    assert [path.name for path in (folder / "snapshots").iterdir()] == [taken["name"]]
    assert taken["name"] == "2025-06-15T15-06-40-000Z"
    files = {str(path.relative_to(folder / "snapshots" / taken["name"]))
             for path in (folder / "snapshots").rglob("*") if path.is_file()}  # fmt: skip
    assert files == {"manifest.json", "memory/notes.jsonl"}
    refusal = await sync.refuse({"do": "disaster_recovery", "action": "restore", "name": "../x"})
    assert f"restore needs the name of a snapshot (there: {taken['name']})" in refusal


def test_every_name_gives_a_safe_file_of_its_own() -> None:
    task = Task("t", {}, Agent("a", "n", "/f"), print, lambda _, __: None, lambda: None)
    names = ["..", "a/b", "a%2Fb", ".git", "漢" * 128, "漢" * 127 + "字", "a b"]
    files = [file_name(Namespace(task, name)) for name in names]
    assert len(set(files)) == len(names)
    assert all(len(file) < 200 and file.count("/") == 1 and file.isascii() for file in files)
