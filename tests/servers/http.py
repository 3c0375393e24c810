"""A real `quarterdeck serve --http` on a free port of this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.until import until

COMMAND = [sys.executable, "-m", "quarterdeck.server", "serve", "--http"]


@dataclass(frozen=True, slots=True)
class HttpServer:
    process: subprocess.Popen[bytes]
    data_dir: Path
    stderr: Path

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.read_text(encoding="utf-8").splitlines()]

    async def url(self) -> str:
        """Where it serves, once it does."""

        def served() -> str | None:
            assert self.process.poll() is None, self.stderr.read_text(encoding="utf-8")
            found = re.search(r"serving (http://\S+:\d+)\"", self.stderr.read_text(encoding="utf-8"))
            return found[1] if found else None

        await until(served, 60)  # a machine may be busy
        url = served()
        assert url is not None
        return url

    async def client(self, **options: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=await self.url(), timeout=60, **options)


@contextmanager
def http_server(folder: Path, **environment: str) -> Generator[HttpServer]:
    """Start one that keeps its data in `folder/data`; it is killed at the end if it still runs."""
    stderr = folder / "stderr"
    variables = {"QUARTERDECK_DATA_DIR": str(folder / "data"), "QUARTERDECK_HTTP_PORT": "0", **environment}
    with (
        stderr.open("wb") as log,
        subprocess.Popen(COMMAND, env={**os.environ, **variables}, stderr=log, stdin=subprocess.DEVNULL) as process,
    ):
        try:
            yield HttpServer(process, folder / "data", stderr)
        finally:
            process.kill()
