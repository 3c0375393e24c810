"""The command line in processes of its own: what cannot work ends with one line and code 2."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.server.command import run


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    return line


def told_at_the_start(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (0, "")
    [line] = [json.loads(line) for line in done.stderr.splitlines()]
    assert line["level"] == "ERROR"
    return str(line["message"])


def test_a_data_directory_that_is_a_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused(run("serve", tmp_path / "file"))
    assert line == f"quarterdeck: QUARTERDECK_DATA_DIR: cannot use {tmp_path / 'file'}: File exists"


def test_a_bad_setting_stops_the_start(tmp_path: Path) -> None:
    line = refused(run("serve", tmp_path, QUARTERDECK_MEMORY_DEFAULT_TTL="soon"))
    assert "QUARTERDECK_MEMORY_DEFAULT_TTL" in line
    assert "valid integer" in line


def test_damaged_records_of_runs_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_bytes(b"this is no database" * 500)
    line = refused(run("serve", tmp_path))
    assert str(tmp_path / "runs.db") in line
    assert "not a database" in line


@pytest.mark.parametrize("name", ["memory.db", "vectors.db"])
def test_another_damaged_store_is_told_at_the_start(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no database" * 500)
    assert told_at_the_start(run("serve", tmp_path)).endswith(f"cannot use {tmp_path / name}: file is not a database")


def test_a_store_of_a_newer_program_is_told_at_the_start(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute("PRAGMA user_version=999")
    connection.close()
    assert told_at_the_start(run("serve", tmp_path)).endswith("upgrade quarterdeck")


def test_serve_ends_well_when_nobody_is_there(tmp_path: Path) -> None:
    done = run("serve", tmp_path / "new")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").glob("*.db*")} == {0o600}


def test_config_shows_every_setting_with_its_source(tmp_path: Path) -> None:
    done = run("config", tmp_path, FEATURE_ADAPTIVE_OPT="0", QUARTERDECK_MEMORY_TTL="1")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert f"QUARTERDECK_DATA_DIR={tmp_path}  # environment" in lines
    assert "FEATURE_ADAPTIVE_OPT=false  # environment" in lines
    assert "QUARTERDECK_LOG_LEVEL=INFO  # default" in lines
    assert "# QUARTERDECK_MEMORY_TTL is set but means nothing here" in lines


def test_the_token_is_shown_nowhere(tmp_path: Path) -> None:
    done = run("config", tmp_path, QUARTERDECK_HTTP_TOKEN="tell-nobody")
    assert "QUARTERDECK_HTTP_TOKEN=***  # environment" in done.stdout
    assert "tell-nobody" not in done.stdout + done.stderr
