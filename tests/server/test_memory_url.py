"""`QUARTERDECK_MEMORY_URL` picks the backend; what cannot work is one plain line without the password."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from quarterdeck.server import doctor
from quarterdeck.server.client import DeckClient, ToolRefusedError
from quarterdeck.server.config import SettingsError
from tests.here import DeckHere
from tests.servers.postgres import PostgresServer
from tests.servers.valkey import ValkeyServer

SECRET = "s3cret-w0rd"

# Runs the command line in a Python that lacks the modules named first.
WITHOUT = """
import sys
missing, *arguments = sys.argv[1:]
sys.modules.update(dict.fromkeys(missing.split(",")))
from quarterdeck.server.cli import main
sys.exit(main(arguments))
"""


def run(command: str, data_dir: Path, url: str, *, without: str = "none") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, without, command],
        env={**os.environ, "QUARTERDECK_DATA_DIR": str(data_dir), "QUARTERDECK_MEMORY_URL": url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert SECRET not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"mysql://u:{SECRET}@h/db", ("no backend for mysql://u:***@h/db", "sqlite:///", "postgresql://", "redis://")),
        ("memory.db", ("no backend for ***", "sqlite:///")),
        ("sqlite://memory.db", ("no backend for sqlite://memory.db", "sqlite:///")),
    ],
)
async def test_a_url_without_a_backend_opens_no_deck(url: str, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        async with DeckHere(tmp_path, environment={"QUARTERDECK_MEMORY_URL": url}):
            pass
    line = refused.value.message
    assert all(word in line for word in words), line
    assert SECRET not in line
    assert "\n" not in line


def test_a_url_without_a_backend_stops_the_start_with_a_plain_line(tmp_path: Path) -> None:
    done = run("serve", tmp_path, f"mysql://u:{SECRET}@h/db")
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("quarterdeck: ")
    assert "no backend for mysql://u:***@h/db" in line


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://u:{SECRET}@127.0.0.1:1/db", ("postgresql://u:***@127.0.0.1:1/db", "Connect call failed")),
        (f"redis://:{SECRET}@127.0.0.1:1/0", ("redis://:***@127.0.0.1:1/0", "127.0.0.1:1")),
        ("unix:///no/such.sock", ("unix:///no/such.sock", "No such file")),
        (f"postgresql://u:x/{SECRET}@h/db", ("postgresql://***", "percent-encoded")),
        (f"redis://u:x/{SECRET}@h/0", ("redis://***", "percent-encoded")),
        ("sqlite:///no/such/folder/memory.db", ("/no/such/folder/memory.db", "No such file")),
    ],
)
async def test_memory_that_cannot_be_used_fails_its_calls_alone(
    url: str, words: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with DeckHere(tmp_path, environment={"QUARTERDECK_MEMORY_URL": url}) as deck:
        for _ in range(2):
            with pytest.raises(ToolRefusedError) as refused:
                await deck.call("memory_usage", action="retrieve", key="k")
            assert refused.value.answer["code"] == "storage"
            assert all(word in refused.value.answer["error"] for word in words), refused.value
            assert SECRET not in str(refused.value.answer)
        assert (await deck.call("vector_collections", action="list"))["collections"] == []
    assert "memory cannot be used now" in caplog.text
    assert SECRET not in caplog.text


async def test_a_server_whose_memory_cannot_be_used_logs_no_password(tmp_path: Path) -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1:1/db"
    async with DeckClient(tmp_path, environment={"QUARTERDECK_MEMORY_URL": url}) as deck:
        with pytest.raises(ToolRefusedError, match=r"u:\*\*\*@"):
            await deck.call("memory_usage", action="retrieve", key="k")
        assert "memory cannot be used now" in deck.stderr
        assert SECRET not in deck.stderr


@pytest.mark.parametrize(
    ("scheme", "module", "extra"), [("postgresql", "asyncpg", "postgres"), ("redis", "redis", "redis")]
)
def test_a_missing_extra_is_named(scheme: str, module: str, extra: str, tmp_path: Path) -> None:
    done = run("serve", tmp_path, f"{scheme}://u:{SECRET}@h/0", without=module)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("quarterdeck: QUARTERDECK_MEMORY_URL: ")
    assert module in line
    assert line.endswith(f": pip install 'quarterdeck[{extra}]'")


def test_the_extras_are_not_needed_for_sqlite(tmp_path: Path) -> None:
    done = run("serve", tmp_path, f"sqlite://{tmp_path}/a%20b.db", without="asyncpg,redis")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "a b.db").exists()
    assert not (tmp_path / "memory.db").exists()


def test_config_and_doctor_hide_the_password(tmp_path: Path) -> None:
    url = f"redis://u:{SECRET}@127.0.0.1:1/0"
    assert "QUARTERDECK_MEMORY_URL=redis://u:***@127.0.0.1:1/0  # environment" in run("config", tmp_path, url).stdout
    examined = run("doctor", tmp_path, url)
    assert examined.returncode == 1
    assert "fail  memory: cannot connect to redis://u:***@127.0.0.1:1/0: " in examined.stdout


def test_config_shows_no_url_as_empty(tmp_path: Path) -> None:
    assert "QUARTERDECK_MEMORY_URL=  # default" in run("config", tmp_path, "").stdout.splitlines()


def test_doctor_asks_the_server_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer, valkey_server: ValkeyServer
) -> None:
    valkey_server.clear()
    monkeypatch.setenv("QUARTERDECK_DATA_DIR", str(tmp_path))
    for url, name in ((postgres_server.url, "PostgreSQL 18."), (valkey_server.url, "Valkey 9.")):
        monkeypatch.setenv("QUARTERDECK_MEMORY_URL", url)
        [memory] = [finding for finding in doctor.examine() if finding.what.startswith("memory")]
        assert memory.level == "ok"
        assert memory.what.startswith(f"memory: {name}")
    assert asyncio.run(tables(postgres_server)) == 0
    assert valkey_server.answer("DBSIZE") == ":0"


async def tables(server: PostgresServer) -> int:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'quarterdeck%'")
    finally:
        await connection.close()
