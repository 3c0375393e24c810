"""`quarterdeck dashboard`: a page beside servers on stdio."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import httpx2

from quarterdeck.server.client import DeckClient

# Stands in for a browser: keeps what it was called with, and what is in the file that this names.
BROWSER = """#!/bin/sh
printf '%s\\n' "$1" > "$KEPT"
case "$1" in file://*) cat "${1#file://}" >> "$KEPT"; echo >> "$KEPT"; ls -l "${1#file://}" >> "$KEPT";; esac
"""


async def test_it_shows_what_other_servers_do_and_keeps_the_token_to_itself(tmp_path: Path) -> None:
    browser, kept, data = tmp_path / "browser", tmp_path / "kept", tmp_path / "data"
    browser.write_text(BROWSER)
    browser.chmod(0o700)
    environment = {
        **os.environ,
        "QUARTERDECK_DATA_DIR": str(data),
        "QUARTERDECK_HTTP_TOKEN": "secret & more/1",
        "BROWSER": f"{browser} %s",
        "KEPT": str(kept),
    }
    command = [sys.executable, "-m", "quarterdeck.server", "dashboard"]
    async with DeckClient(data) as deck:
        await deck.call("memory_usage", action="store", key="k", value="from the other server")
        with subprocess.Popen(  # noqa: ASYNC220
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            try:
                found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)#token=(.+)", address)
                assert found is not None
                token = unquote(found[2])
                assert token == "secret & more/1"
                async with httpx2.AsyncClient(
                    base_url=found[1], headers={"Authorization": f"Bearer {token}"}
                ) as client:
                    assert (await client.get("/")).status_code == 200
                    listed = (await client.get("/api/memory?action=list")).json()
                assert [entry["value"] for entry in listed["entries"]] == ["from the other server"]
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    opened = kept.read_text().splitlines()
    assert opened[0].startswith("file://")
    assert "token" not in opened[0]
    assert "#token=" in opened[1]
    assert opened[2].startswith("-rw-------")
    assert not Path(opened[0].removeprefix("file://")).exists()
