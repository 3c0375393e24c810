"""Places for Qdrant collections: the wire shim (not Qdrant; see qdrant_shim.py) as a process of the tests' own, and the
real server that QDRANT_URL names (its key: QDRANT_API_KEY), if it does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from qdrant_client import AsyncQdrantClient

from quarterdeck.storage.vectors import qdrant_catalogue

SHIM = "wire shim, not Qdrant"
QDRANTS = [SHIM, *(["Qdrant"] if "QDRANT_URL" in os.environ else [])]
API_KEY = "key-of-the-tests"


class QdrantShim:
    """Runs from its making until `close`; what it acknowledged is there after `kill` and `restart`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="quarterdeck-qdrant-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.restart()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restart(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.qdrant_shim", str(self.port), self._folder.name],
            env={**os.environ, "QDRANT__SERVICE__API_KEY": API_KEY},
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline
            assert self._process.poll() is None
            time.sleep(0.02)

    def _answers(self) -> bool:
        asked = urllib.request.Request(self.url, headers={"api-key": API_KEY})  # noqa: S310  loopback
        try:
            with urllib.request.urlopen(asked, timeout=5):  # noqa: S310  loopback
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


@asynccontextmanager
async def qdrant_place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[str, str | None]]:
    """URL and API key of the server that the fixture's parameter names; the catalogue there is this test's alone."""
    if request.param == SHIM:
        shim: QdrantShim = request.getfixturevalue("qdrant_shim")
        url, api_key = shim.url, API_KEY
    else:
        url, api_key = os.environ["QDRANT_URL"], os.environ.get("QDRANT_API_KEY")
    catalogue = f"quarterdeck-test-{uuid4().hex}"
    monkeypatch.setattr(qdrant_catalogue, "CATALOGUE", catalogue)
    yield url, api_key
    client = AsyncQdrantClient(url=url, headers={"api-key": api_key} if api_key else None, check_compatibility=False)
    for each in (await client.get_collections()).collections:
        if each.name.startswith(catalogue):
            await client.delete_collection(each.name)
    await client.close()
