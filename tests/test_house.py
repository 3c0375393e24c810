"""The house: imports run one way, the package list is what is on disk, the folders are the five."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("server", "tools", "storage")
ALLOWED = {"server": {"server", "tools", "storage"}, "tools": {"tools", "storage"}, "storage": {"storage"}}


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a module imports from, absolute or relative."""
    rooms: set[str] = set()
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["quarterdeck", *package[: len(package) - node.level + 1]] if node.level else []
            names = [".".join([*base, node.module or ""])]
        rooms |= {parts[1] for name in names if (parts := name.split("."))[0] == "quarterdeck" and len(parts) > 1}
    return rooms


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    modules = list((ROOT / room).rglob("*.py"))
    assert len(modules) > 3
    wrong = {str(m.relative_to(ROOT)): rooms for m in modules if (rooms := imported_rooms(m) - ALLOWED[room])}
    assert wrong == {}


def test_a_relative_import_cannot_leave_its_room() -> None:
    assert imported_rooms(ROOT / "tools" / "agents" / "tool.py") == {"tools", "storage"}


def test_only_the_stores_know_the_backends() -> None:
    """`doctor` and `backup` look at what no store has opened."""
    backends = [
        f"quarterdeck.storage.{path.relative_to(ROOT / 'storage').with_suffix('').as_posix().replace('/', '.')} "
        for name in ("sqlite", "postgres", "redis", "faiss", "qdrant", "local", "s3")
        for path in (ROOT / "storage").glob(f"*/{name}.py")
    ]
    assert len(backends) > 7
    knowing = {
        path.relative_to(ROOT).as_posix()
        for room in ("server", "tools")
        for path in (ROOT / room).rglob("*.py")
        if any(backend in path.read_text(encoding="utf-8") for backend in backends)
    }
    assert knowing == {"server/stores.py", "server/doctor.py", "server/backup.py"}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed() -> None:
    on_disk = {
        ".".join(["quarterdeck", *init.parent.relative_to(ROOT).parts])
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }
    assert set(project()["tool"]["setuptools"]["packages"]) == on_disk
    assert {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")} == {
        init.parent for room in ROOMS for init in (ROOT / room).rglob("__init__.py")
    }


def test_every_file_of_the_page_is_shipped() -> None:
    folder = ROOT / "server" / "dashboard"
    patterns: list[str] = project()["tool"]["setuptools"]["package-data"]["quarterdeck.server.dashboard"]
    shipped = {path for pattern in patterns for path in folder.glob(pattern)}
    assert shipped == {path for path in folder.rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}


def test_there_are_no_other_code_folders() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] for path in tracked if "/" in path}
    assert folders <= {*ROOMS, "tests", "examples", ".ci", ".github"}


def test_no_file_says_that_it_is_unfinished() -> None:
    words = ("todo", "fixme", "notimplemented", "placeholder", "for now")
    found = {
        str(path.relative_to(ROOT)): word
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for word in words
        if word in path.read_text(encoding="utf-8").lower() and path.parts[-2] != "builtin"
    }
    assert found == {}
