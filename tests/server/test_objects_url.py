"""`QUARTERDECK_OBJECTS_URL` and `MINIO_*` say where uploads are kept; what cannot work is one line without keys."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from quarterdeck.server.client import ToolRefusedError
from quarterdeck.server.config import SettingsError
from tests.here import DeckHere
from tests.server import command
from tests.servers.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer

SECRET = "s3cret-w0rd"
KEYS = {"MINIO_ACCESS_KEY": "access", "MINIO_SECRET_KEY": SECRET}


def run(name: str, data_dir: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    done = command.run(name, data_dir, **settings)
    assert SECRET not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"MINIO_ENDPOINT": "http://h:9000"},
            "MINIO_ENDPOINT needs MINIO_ACCESS_KEY and MINIO_SECRET_KEY: there are no default keys",
        ),
        (
            {"QUARTERDECK_OBJECTS_URL": "s3://b", "MINIO_ACCESS_KEY": "a", "AWS_SECRET_ACCESS_KEY": SECRET},
            "QUARTERDECK_OBJECTS_URL needs MINIO_ACCESS_KEY and MINIO_SECRET_KEY: there are no default keys",
        ),
        (
            {"MINIO_ENDPOINT": "h:9000", **KEYS},
            "MINIO_ENDPOINT: the endpoint must be http://host:port or https://host:port",
        ),
        (
            {"QUARTERDECK_OBJECTS_URL": f"s3://a:{SECRET}@b", **KEYS},
            "QUARTERDECK_OBJECTS_URL: keys do not belong into the URL: set MINIO_ACCESS_KEY and MINIO_SECRET_KEY",
        ),
        (
            {"QUARTERDECK_OBJECTS_URL": "ftp://b", **KEYS},
            "QUARTERDECK_OBJECTS_URL: must be s3://bucket?endpoint=https://host:port&region=us-east-1 "
            "(endpoint and region may be left out)",
        ),
    ],
)
async def test_settings_that_cannot_work_open_no_deck(settings: dict[str, str], line: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        async with DeckHere(tmp_path, environment=settings):
            pass
    assert refused.value.message == line


def test_settings_that_cannot_work_stop_the_start_with_a_plain_line(tmp_path: Path) -> None:
    done = run("serve", tmp_path, MINIO_ENDPOINT="h:9000", **KEYS)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line == "quarterdeck: MINIO_ENDPOINT: the endpoint must be http://host:port or https://host:port"


def test_keys_are_not_shown(tmp_path: Path) -> None:
    lines = run("config", tmp_path, MINIO_ENDPOINT="http://h:9000", **KEYS).stdout.splitlines()
    assert "MINIO_ACCESS_KEY=***  # environment" in lines
    assert "MINIO_SECRET_KEY=***  # environment" in lines
    assert "MINIO_BUCKET=aeon-documents  # default" in lines


@pytest.mark.parametrize("wins", [False, True])
async def test_uploads_go_into_the_bucket(s3_server: SeaweedServer, tmp_path: Path, wins: bool) -> None:
    bucket = s3_server.new_bucket()
    endpoint = f"http://127.0.0.1:{s3_server.port}"
    settings = {"MINIO_ENDPOINT": endpoint, "MINIO_BUCKET": bucket}
    if wins:
        settings = {
            "MINIO_ENDPOINT": "http://127.0.0.1:9",
            "MINIO_BUCKET": "another",
            "QUARTERDECK_OBJECTS_URL": f"s3://{bucket}?endpoint={endpoint}",
        }
    keys = {"MINIO_ACCESS_KEY": ACCESS_KEY, "MINIO_SECRET_KEY": SECRET_KEY}
    async with DeckHere(tmp_path, environment={**settings, **keys}) as deck:
        answer = await deck.call("upload", files=[{"name": "é.txt", "content": "text"}])
        [file] = answer["files"]
        assert s3_server.keys(bucket) == [file["path"]]
        read = await deck.call("uploads", action="read", key=file["path"])
        assert read["content"] == "text"
        assert (await deck.call("server_status"))["backends"]["objects"] == "s3"
    assert not (tmp_path / "objects").exists()


async def test_a_store_that_cannot_be_used_fails_its_own_calls_and_heals(
    s3_server: SeaweedServer, tmp_path: Path
) -> None:
    settings = {
        "MINIO_ENDPOINT": f"http://127.0.0.1:{s3_server.port}",
        "MINIO_BUCKET": "comes-later",
        "MINIO_ACCESS_KEY": ACCESS_KEY,
        "MINIO_SECRET_KEY": SECRET_KEY,
    }
    async with DeckHere(tmp_path, environment=settings) as deck:
        with pytest.raises(ToolRefusedError, match="All uploads failed: a - there is no bucket comes-later at http"):
            await deck.call("upload", files=[{"name": "a", "content": "x"}])
        await deck.call("memory_usage", action="store", key="k", value="v")
        s3_server.client.create_bucket(Bucket="comes-later")
        assert (await deck.call("upload", files=[{"name": "a", "content": "x"}]))["count"] == 1


async def test_a_folder_that_cannot_be_used_fails_its_own_calls_and_heals(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("not a folder")
    async with DeckHere(tmp_path) as deck:
        with pytest.raises(ToolRefusedError, match="cannot keep objects in"):
            await deck.call("uploads", action="list")
        (tmp_path / "objects").unlink()
        assert (await deck.call("uploads", action="list"))["uploads"] == []


def test_the_doctor_looks_at_the_bucket(s3_server: SeaweedServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{s3_server.port}"
    bucket = s3_server.new_bucket()
    keys = {"MINIO_ACCESS_KEY": ACCESS_KEY, "MINIO_SECRET_KEY": SECRET_KEY}
    fine = run("doctor", tmp_path, MINIO_ENDPOINT=endpoint, MINIO_BUCKET=bucket, **keys)
    assert (fine.returncode, f"objects: bucket {bucket} at {endpoint} can be used" in fine.stdout) == (0, True)
    refused = run("doctor", tmp_path, MINIO_ENDPOINT=endpoint, MINIO_BUCKET=bucket, **KEYS)
    assert refused.returncode == 1
    assert "the keys are refused" in refused.stdout
