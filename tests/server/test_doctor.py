"""`quarterdeck doctor`: every trouble gets a line and a remedy, and the exit code is the server's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from quarterdeck.server import cli, doctor
from quarterdeck.server.config import Settings
from quarterdeck.storage.memory.sqlite import SqliteMemoryStore
from quarterdeck.storage.runs.sqlite import SqliteRunStore
from quarterdeck.tools.agents import processes


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory that is not there yet, named by the environment; uploads from the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUARTERDECK_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def levels() -> dict[str, list[str]]:
    """What was found, by level."""
    found: dict[str, list[str]] = {"ok": [], "warn": [], "fail": []}
    for level, what, remedy in doctor.examine():
        assert (remedy is None) == (level == "ok")
        found[level].append(f"{what} -> {remedy}")
    return found


def test_a_fresh_machine_is_ready(capsys: pytest.CaptureFixture[str], data_dir: Path) -> None:
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "the server can serve"
    assert all(line.startswith("ok ") for line in lines[:-2])
    for word in ("Python 3", "FTS5", "faiss", "numpy", "mcp 2", str(data_dir), "memory", "runs", "vectors", "objects"):
        assert any(word in line for line in lines)


async def test_stores_in_use_are_sound_and_stay_as_they_are(data_dir: Path) -> None:
    data_dir.mkdir()
    memory, runs = SqliteMemoryStore(data_dir / "memory.db"), SqliteRunStore(data_dir / "runs.db")
    await memory.put("n", "k", '"v"', size=3, now=1, ttl=0, grace=0)
    before = (data_dir / "memory.db").read_bytes(), (data_dir / "memory.db-wal").read_bytes()
    found = list(doctor._backends(data_dir, Settings()))  # pyright: ignore[reportPrivateUsage]
    assert [finding.what for finding in found[:2]] == ["memory: memory.db is sound", "runs: runs.db is sound"]
    assert ((data_dir / "memory.db").read_bytes(), (data_dir / "memory.db-wal").read_bytes()) == before
    await memory.close()
    await runs.close()


def a_file(path: Path) -> None:
    path.write_text("not a folder")


def a_damaged_database(path: Path) -> None:
    path.mkdir()
    (path / "runs.db").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)


def a_newer_schema(path: Path) -> None:
    path.mkdir()
    with closing(sqlite3.connect(path / "vectors.db")) as connection:
        connection.execute("PRAGMA user_version = 99")


def no_objects(path: Path) -> None:
    path.mkdir()
    (path / "objects").write_text("not a folder")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (a_file, ("QUARTERDECK_DATA_DIR", "cannot use")),
        (a_damaged_database, ("runs.db is damaged", "copy")),
        (a_newer_schema, ("vectors.db has schema 99", "upgrade")),
        (no_objects, ("objects cannot be used",)),
    ],
)
def test_a_broken_data_directory_fails(
    spoil: Callable[[Path], None], words: tuple[str, ...], data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(data_dir)
    [failure] = levels()["fail"]
    assert all(word in failure for word in words)
    assert doctor.run_doctor() == 1
    assert capsys.readouterr().out.endswith("the server cannot serve: 1 to repair\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [("QUARTERDECK_LOG_LEVEL", "loud"), ("FEATURE_ADAPTIVE_OPT", "perhaps"), ("QUARTERDECK_CONFIG", "/no/such.toml")],
)
def test_a_bad_setting_fails_by_its_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    [failure] = levels()["fail"]
    assert name in failure


def test_an_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTERDECK_DATADIR", "x")
    found = levels()
    assert found["fail"] == []
    assert found["warn"] == [
        "QUARTERDECK_DATADIR is set but means nothing here -> `quarterdeck config` shows the names"
    ]


def test_upload_roots_that_are_none_or_missing_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert ["QUARTERDECK_UPLOAD_ROOTS" in warning for warning in levels()["warn"]] == [True]
    monkeypatch.setenv("QUARTERDECK_UPLOAD_ROOTS", "/no/such/folder")
    [warning] = levels()["warn"]
    assert warning.startswith("no such folder: /no/such/folder")


def test_a_missing_package_ends_the_examination(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    def needed(_: str) -> list[str]:
        return ["no-such-package<3,>=2", "psutil>=7", 'never-wanted; extra == "more"']

    monkeypatch.setattr(doctor, "requires", needed)
    found = levels()
    assert found["fail"] == ["packages missing: no-such-package -> pip install no-such-package"]
    assert not data_dir.exists()


def test_a_module_that_does_not_load_and_an_old_sqlite_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "COMPILED", ("no_such_module",))
    monkeypatch.setattr(doctor, "SQLITE", (99, 1))
    sqlite, module = levels()["fail"]
    assert "SQLite 99.1 or newer" in sqlite
    assert module.startswith("no_such_module does not load")


def test_a_platform_without_freezing_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: object) -> None:
        return None

    monkeypatch.setattr(processes, "freeze", refuse)
    [warning] = levels()["warn"]
    assert "could not be stopped" in warning
