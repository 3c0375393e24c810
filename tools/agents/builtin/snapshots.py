"""Disaster recovery: snapshots of stores in the folder of the agent type, restored only if every byte is as written.

A snapshot is the folder `snapshots/{name}`: a file of JSON lines `{key, content, expires}` for each store, and
`manifest.json`, `{"manifest": {name, createdAt, stores}, "sha256": digest of the manifest}`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..worker.task import PromptError, Task
from .entries import deck_time
from .exports import chosen_stores, file_name, lock, sync_folder, write_lines
from .stores import Record, State, canonical, digest, lifetime, open_store

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")

Snapshot = dict[str, Any]


def disaster_recovery(task: Task) -> dict[str, Any]:
    """Keep and bring back stores, by `action`.

    - snapshot: write `namespaces` and `collections` under `name` (the time, unless given): `{name, createdAt, stores:
      [{kind, name, records, bytes, …}]}`. It is there whole or not at all; each page is of the moment it was read.
    - restore: verify the whole snapshot `name`, then write it, or only the namespaces and collections named: `{name,
      createdAt, restored: [{kind, name, written, unchanged, expired, others, missed}]}`. Nothing is deleted: `others`
      counts what the snapshot does not have. `expired` have reached their end since and stay gone; `missed` are the
      keys that somebody else changed at the same time.
    - list: `{snapshots: [{name, createdAt, stores} or {name, error}]}`, by name.
    """
    action = task.prompt.get("action", "list")
    folder = Path(task.agent.folder) / "snapshots"
    folder.mkdir(mode=0o700, exist_ok=True)
    if action == "list":
        return {"snapshots": [_listed(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")]}
    if action == "restore":
        return _restore(task, folder)
    with lock(Path(task.agent.folder)):
        return _take(task, folder)


def _take(task: Task, folder: Path) -> Snapshot:
    now = deck_time(task)
    name = task.prompt.get("name") or re.sub(r"[^0-9TZ]", "-", now)
    if not _NAME.fullmatch(name):
        raise PromptError(f"a snapshot's name is 1 to 100 letters, digits, _ and -, got {name[:40]!r}")
    if (folder / name).exists():
        raise PromptError(f"there is a snapshot {name!r} already; choose another name, or none for the time")
    stores = chosen_stores(task)
    if not stores:
        raise PromptError("a snapshot needs namespaces, collections or both: lists of names")
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by one that was killed: the lock says that nobody is at it
    try:
        partial.mkdir(mode=0o700)
        written: list[Snapshot] = []
        for store in stores:
            place = file_name(store)
            figures = write_lines(task, partial / place, store, _line)
            written.append({"kind": store.kind, "name": store.name, "shape": store.shape, "file": place, **figures})
        manifest = {"name": name, "createdAt": now, "stores": written}
        with (partial / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump({"manifest": manifest, "sha256": _digest(manifest)}, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(partial)
        partial.rename(folder / name)
        sync_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _line(record: Record) -> str:
    line = {"key": record.key, "content": record.content, "expires": record.state.expires}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def _digest(manifest: Snapshot) -> str:
    return hashlib.sha256(canonical(manifest).encode()).hexdigest()


def _read_manifest(path: Path) -> Snapshot:
    """Raises PromptError if it is not what was written."""
    try:
        kept = json.loads((path / MANIFEST).read_bytes())
        manifest: Snapshot = kept["manifest"]
        is_whole = kept["sha256"] == _digest(manifest)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise PromptError(f"snapshot {path.name!r} is damaged: {MANIFEST}: {type(exc).__name__}: {exc}") from None
    if not is_whole:
        raise PromptError(f"snapshot {path.name!r} is damaged: {MANIFEST} is not what was written")
    return manifest


def _listed(path: Path) -> Snapshot:
    try:
        return _read_manifest(path)
    except PromptError as exc:
        return {"name": path.name, "error": str(exc)}


def _restore(task: Task, folder: Path) -> Snapshot:
    name = task.prompt.get("name", "")
    if not _NAME.fullmatch(name) or not (folder / name).is_dir():
        known = ", ".join(sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))) or "none"
        raise PromptError(f"restore needs the name of a snapshot (there: {known}), got {name[:40]!r}")
    manifest = _read_manifest(folder / name)
    chosen = _chosen(task, manifest)
    for stored in manifest["stores"]:  # all of them, and all before the first write
        _verify(task, folder / name, stored)
    restored = [_write_back(task, folder / name, stored) for stored in chosen]
    return {"name": name, "createdAt": manifest["createdAt"], "restored": restored}


def _chosen(task: Task, manifest: Snapshot) -> list[Snapshot]:
    wanted = {(kind, name) for kind, field in (("memory", "namespaces"), ("vectors", "collections"))
              for name in task.prompt.get(field, ())}  # fmt: skip
    there = {(stored["kind"], stored["name"]): stored for stored in manifest["stores"]}
    if missing := sorted(f"{kind} {name}" for kind, name in wanted - there.keys()):
        has = ", ".join(f"{kind} {name}" for kind, name in there)
        raise PromptError(f"snapshot {manifest['name']!r} does not have {', '.join(missing)}; it has {has}")
    return [stored for key, stored in there.items() if key in wanted or not wanted]


def _verify(task: Task, path: Path, stored: Snapshot) -> None:
    checksum = hashlib.sha256()
    try:
        with (path / stored["file"]).open("rb") as file:
            while chunk := file.read(1 << 20):
                task.check()
                checksum.update(chunk)
    except OSError as exc:
        raise PromptError(f"snapshot {path.name!r} is damaged: {stored['file']}: {exc.strerror}") from None
    if checksum.hexdigest() != stored["sha256"]:
        raise PromptError(f"snapshot {path.name!r} is damaged: {stored['file']} is not what was written")


def _write_back(task: Task, path: Path, stored: Snapshot) -> Snapshot:
    store = open_store(task, stored["kind"], stored["name"], stored["shape"])
    states = {record.key: record.state for record in store.records()}
    now = deck_time(task)
    counts = {"unchanged": 0, "expired": 0}
    tried: list[str] = []

    def records() -> Iterator[tuple[Record, State | None]]:
        with (path / stored["file"]).open("rb") as file:
            for number, line in enumerate(file):
                task.progress(number, stored["records"], f"restoring {store.name}")
                kept = json.loads(line)
                key, content, expires = kept["key"], kept["content"], kept["expires"]
                state = states.pop(key, None)
                if expires is not None and expires <= now:
                    counts["expired"] += 1
                elif state is not None and state.digest == digest(content):
                    counts["unchanged"] += 1
                else:
                    tried.append(key)
                    yield Record(key, content, State("", None, None, expires), lifetime(now, expires)), state

    written = list(store.write(records()))
    return {
        "kind": store.kind,
        "name": store.name,
        "written": len(written),
        **counts,
        "others": len(states),
        "missed": sorted(set(tried).difference(written)),
    }
