"""The memory servers that ours is measured against, and ours, described alike: how one starts, and its nearest calls.

Peers are installed once, into the folder `.bench` that git ignores; remove it to get their newest versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .entries import Entry
from .measure import DECK
from .raw_client import Era, RawClient

CACHE = Path(__file__).parents[2] / ".bench"
INSTALL_LIMIT = 600.0  # seconds
BUILD_LIMIT = 1200.0  # better-sqlite3 has 200,000 lines of C to compile where no binary can be fetched

Arguments = Callable[[Entry], Mapping[str, Any]]


class PeerUnavailableError(Exception):
    """It cannot be installed here; the text says why."""


@dataclass(frozen=True, slots=True)
class MemoryServer:
    """A server of memory over stdio. `search` is called with a word as the entry's key."""

    name: str
    command: Sequence[str | Path]
    calls: Mapping[str, tuple[str, Arguments]]
    """Per action of ours, the tool that comes nearest and its arguments."""
    kept: Callable[[Path], int]
    """How many entries it has on disk if it works in that folder."""
    environment: Callable[[Path], Mapping[str, str]]
    """Its settings, to work in that folder."""

    def shown(self, action: str) -> str:
        """The name of its call for a table."""
        return f"{self.name} {self.calls[action][0]}"

    def start(self, era: Era, folder: Path) -> RawClient:
        """Its client, not yet entered."""
        return RawClient(self.command, era, environment=self.environment(folder), errors=folder / "stderr", cwd=folder)


def _memory_usage(**limits: Any) -> dict[str, tuple[str, Arguments]]:
    """Ours, and claude-flow's, which has no limits to give."""
    calls: dict[str, Arguments] = {
        "store": lambda entry: {"action": "store", "key": entry.key, "value": entry.value},
        "retrieve": lambda entry: {"action": "retrieve", "key": entry.key},
        "list": lambda _: {"action": "list", **limits},
        "search": lambda entry: {"action": "search", "value": entry.key, **limits},
        "delete": lambda entry: {"action": "delete", "key": entry.key},
    }
    return {action: ("memory_usage", arguments) for action, arguments in calls.items()}


def quarterdeck() -> MemoryServer:
    return MemoryServer(
        "quarterdeck",
        DECK,
        _memory_usage(limit=100),  # what the others list at once
        lambda folder: _count(folder / "data" / "memory.db", "entries WHERE NOT deleted"),
        lambda folder: {"QUARTERDECK_DATA_DIR": str(folder / "data")},
    )


def claude_flow() -> MemoryServer:
    """Its memory is synchronous writes of better-sqlite3; without that it would silently keep nothing, so we look."""
    package = "claude-flow"
    root = _npm(f"{package}@2.7.0", native="better-sqlite3")
    return MemoryServer(
        f"{package} {_npm_version(root, package)}",
        [
            "node",
            root / "node_modules" / package / "src" / "mcp" / "mcp-server.js",
        ],  # what `claude-flow mcp start` runs
        _memory_usage(),
        lambda folder: _count(folder / ".swarm" / "memory.db", "memory_entries"),
        lambda _: {},
    )


def server_memory() -> MemoryServer:
    """The knowledge graph in one JSON file: an entry is an entity with one observation; it lists all or nothing."""
    package = "@modelcontextprotocol/server-memory"
    root = _npm(package)

    def entity(entry: Entry) -> Mapping[str, Any]:
        return {"entities": [{"name": entry.key, "entityType": "memory", "observations": [entry.value]}]}

    return MemoryServer(
        f"server-memory {_npm_version(root, package)}",
        ["node", root / "node_modules" / package / "dist" / "index.js"],
        {
            "store": ("create_entities", entity),
            "retrieve": ("open_nodes", lambda entry: {"names": [entry.key]}),
            "list": ("read_graph", lambda _: {}),
            "search": ("search_nodes", lambda entry: {"query": entry.key}),
            "delete": ("delete_entities", lambda entry: {"entityNames": [entry.key]}),
        },
        lambda folder: len((folder / "graph.jsonl").read_text(encoding="utf-8").splitlines()),
        lambda folder: {"MEMORY_FILE_PATH": str(folder / "graph.jsonl")},
    )


def memory_service() -> MemoryServer:
    """SQLite with vectors. It embeds by hashing here, its quickest way: no model has to be downloaded or run.

    It knows a memory by the hash of its text: what ours gets by key is there a search for text.
    """
    package = "mcp-memory-service"
    python = pip_install(package)
    version = _run([python, "-c", f"from importlib.metadata import version; print(version('{package}'))"])

    def exact(entry: Entry, limit: int) -> Mapping[str, Any]:
        return {"query": entry.key, "mode": "exact", "limit": limit}

    return MemoryServer(
        f"{package} {version}",
        [python.with_name("memory"), "server"],
        {
            "store": ("memory_store", lambda entry: {"content": entry.value}),
            "retrieve": ("memory_search", lambda entry: exact(entry, 1)),
            "list": ("memory_list", lambda _: {"page_size": 100}),
            "search": ("memory_search", lambda entry: exact(entry, 100)),
            "delete": (
                "memory_delete",
                lambda entry: {"content_hash": hashlib.sha256(entry.value.encode()).hexdigest()},
            ),
        },
        lambda folder: _count(folder / "memory.db", "memories WHERE deleted_at IS NULL"),
        lambda folder: {
            "MCP_MEMORY_SQLITE_PATH": str(folder / "memory.db"),
            "MCP_MEMORY_BASE_DIR": str(folder / "base"),
            "MCP_MEMORY_ALLOW_HASH_EMBEDDINGS": "1",
            "MCP_MDNS_ENABLED": "false",
            "HF_HUB_OFFLINE": "1",
        },
    )


PEERS: dict[str, Callable[[], MemoryServer]] = {
    "claude-flow": claude_flow,
    "server-memory": server_memory,
    "mcp-memory-service": memory_service,
}
"""Each installs itself at the first call. Raises PeerUnavailableError."""


def _count(database: Path, table: str) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _npm(package: str, native: str | None = None) -> Path:
    """Install a package without its install scripts, which fetch what a memory needs not, but for one `native` part."""
    root = CACHE / package.replace("/", "+")
    done = root / "installed"
    if not done.exists():
        print(f"installing {package} into {root.name}, once; this can take minutes", flush=True)
        root.mkdir(parents=True, exist_ok=True)
        options = ["--prefix", root, "--no-audit", "--no-fund", "--loglevel=error"]
        _run(["npm", "install", "--ignore-scripts", *options, package])
        if native is not None:
            _run(["npm", "rebuild", *options, native], BUILD_LIMIT)
        done.touch()
    return root


def _npm_version(root: Path, package: str) -> str:
    manifest = (root / "node_modules" / package / "package.json").read_text(encoding="utf-8")
    return str(json.loads(manifest)["version"])


def pip_install(package: str) -> Path:
    """Install a package into a virtual environment of its own; its interpreter."""
    root = CACHE / package
    python = root / "bin" / "python"
    done = root / "installed"
    if not done.exists():
        print(f"installing {package} into {root.name}, once", flush=True)
        _run([sys.executable, "-m", "venv", root])
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*install, package])
        if not hasattr(sqlite3.Connection, "enable_load_extension"):  # left out of some builds of Python
            _run([*install, "pysqlite3-binary"])
            site = next(root.glob("lib/python*/site-packages"))
            (site / "sitecustomize.py").write_text('import sys, pysqlite3\nsys.modules["sqlite3"] = pysqlite3\n')
        done.touch()
    return python


def _run(command: Sequence[str | Path], limit: float = INSTALL_LIMIT) -> str:
    """What the command prints.

    Raises:
        PeerUnavailableError: it cannot be started, fails or takes longer than `limit` seconds.
    """
    name = " ".join(Path(part).name for part in command[:3])
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except OSError as exc:
        raise PeerUnavailableError(f"{name}: {exc}") from exc
    with process:
        try:
            output, errors = process.communicate(timeout=limit)
        except BaseException as exc:
            os.killpg(process.pid, signal.SIGKILL)  # compilers and all
            if isinstance(exc, subprocess.TimeoutExpired):
                raise PeerUnavailableError(f"{name}: not done after {limit:g} s") from exc
            raise
    if process.returncode:
        raise PeerUnavailableError(f"{name}: {' '.join(errors.split())[-300:]}")
    return output.strip()
