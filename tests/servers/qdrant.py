"""The wire shim (not Qdrant; see qdrant_shim.py) as a process of the tests' own, reached over a port of loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

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
        asked = urllib.request.Request(self.url, headers={"api-key": API_KEY})
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
