"""A full disk, a file that may not be written, and damaged files: plain errors, nothing lost, the server lives on."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.server.client import DeckClient, ToolRefusedError

# Runs in a process of its own: even root must not write where the file's mode forbids it.
READ_ONLY = """
import asyncio, ctypes, sys
from pathlib import Path
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)  # refused to other users, who have no need of it
from tests.faults.test_memory_files import use_read_only
asyncio.run(use_read_only(Path(sys.argv[1])))
"""


async def refusal(deck: DeckClient, **arguments: Any) -> str:
    with pytest.raises(ToolRefusedError) as refused:
        await deck.call("memory_usage", **arguments)
    assert refused.value.answer["code"] == "storage"
    return str(refused.value.answer["error"])


async def value_of(deck: DeckClient, key: str) -> Any:
    return (await deck.call("memory_usage", action="retrieve", key=key))["value"]


async def the_rest_serves(deck: DeckClient) -> None:
    await deck.call("vector_upsert", collection="c", points=[{"id": "p", "vector": [1.0]}])
    assert (await deck.call("server_status"))["pid"]


async def test_a_full_disk_refuses_writes_until_there_is_room(tmp_path: Path) -> None:
    async with DeckClient(tmp_path) as deck:
        for number in range(50):
            await deck.call("memory_usage", action="store", key=f"{number}", value="v" * 5_000)
        pid = (await deck.call("server_status"))["pid"]
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, ((tmp_path / "memory.db-wal").stat().st_size, hard))
        for number in range(50, 60):
            error = await refusal(deck, action="store", key=f"{number}", value="v" * 5_000)
            assert f"cannot write {tmp_path}/memory.db: " in error
            assert error.endswith("; nothing of this call was kept")
        assert await value_of(deck, "49") == "v" * 5_000
        assert await value_of(deck, "50") is None
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        await deck.call("memory_usage", action="store", key="after", value=1)
        await deck.kill()
        await deck.start()
        assert (await deck.call("memory_usage", action="list", includeValues=False, limit=500))["count"] == 51


async def use_read_only(data_dir: Path) -> None:
    async with DeckClient(data_dir) as deck:
        await deck.call("memory_usage", action="store", key="k", value="kept")
    file = data_dir / "memory.db"
    file.chmod(0o400)
    async with DeckClient(data_dir) as deck:
        for arguments in ({"action": "store", "value": 1}, {"action": "retrieve"}):
            error = await refusal(deck, key="k", **arguments)
            assert f"cannot open {file}: " in error, error
            assert "Permission denied" in error, error
        await the_rest_serves(deck)
        file.chmod(0o600)
        assert await value_of(deck, "k") == "kept"


def test_a_file_that_may_not_be_written_is_named_and_taken_again_once_it_may(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", READ_ONLY, tmp_path], check=True, timeout=120)


async def test_a_file_that_is_no_database_is_named_until_its_backup_is_back(tmp_path: Path) -> None:
    async with DeckClient(tmp_path) as deck:
        await deck.call("memory_usage", action="store", key="k", value="kept")
    file = tmp_path / "memory.db"
    copy = shutil.copy(file, tmp_path / "copy")
    file.write_bytes(b"no database" * 1_000)
    async with DeckClient(tmp_path) as deck:
        assert await refusal(deck, action="store", key="k", value=1) == f"cannot use {file}: file is not a database"
        await the_rest_serves(deck)
        assert file.read_bytes() == b"no database" * 1_000  # whoever wants to look at it still can
        shutil.copy(copy, file)
        assert await value_of(deck, "k") == "kept"


async def test_damage_inside_of_the_file_is_an_error_of_the_calls_that_meet_it(tmp_path: Path) -> None:
    async with DeckClient(tmp_path) as deck:
        for number in range(300):
            await deck.call("memory_usage", action="store", key=f"{number:03}", value="v" * 3_000)
    file = tmp_path / "memory.db"
    whole = file.read_bytes()
    begin, end = (len(whole) // 4096 * part // 100 * 4096 for part in (90, 95))
    file.write_bytes(whole[:begin] + b"\xa5" * (end - begin) + whole[end:])
    async with DeckClient(tmp_path) as deck:
        found: list[str] = []
        errors: set[str] = set()
        for number in range(300):
            try:
                found.append(await value_of(deck, f"{number:03}"))
            except ToolRefusedError as exc:
                errors.add(exc.answer["error"])
        assert set(found) == {"v" * 3_000}
        assert errors == {f"cannot read {file}: database disk image is malformed"}
        await the_rest_serves(deck)
        assert "Traceback" not in deck.stderr
