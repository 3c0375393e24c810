"""Work that needs more than the standard library runs in a second process: the calling side of `agents/library`.

It is a child of the worker, so that what pauses or ends the agent's tree reaches it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from threading import Thread
from typing import Any

from .task import CallError, Task

CHECK_INTERVAL = 0.05  # seconds between two looks whether the task is cancelled


class LibraryError(CallError):
    """The second process refused or died; the text says why."""


def call_library(task: Task, function: str, **arguments: Any) -> Any:
    """Call a function of the library process, one of its FUNCTIONS, and wait for the result.

    Raises:
        LibraryError: the function refused or failed, or its process did not live to answer.
        Cancelled: the task was cancelled; the process has ended.
    """
    task.check()
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "quarterdeck.tools.agents.library", function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        # Without PASSIVE, FAISS's idle threads spin and take the time of those that work.
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    ) as process:
        answers: list[bytes] = []
        conversation = Thread(target=_converse, args=(process, json.dumps(arguments).encode() + b"\n", answers))
        conversation.start()
        try:
            while conversation.is_alive():
                conversation.join(CHECK_INTERVAL)
                task.check()
        except BaseException:
            process.kill()
            raise
        finally:
            conversation.join()
    if process.returncode:
        raise LibraryError(f"{function}: the process of the libraries {_describe(process.returncode)}")
    answer = json.loads(b"".join(answers))
    if "error" in answer:
        raise LibraryError(answer["error"])
    return answer["result"]


def _converse(process: subprocess.Popen[bytes], request: bytes, answers: list[bytes]) -> None:
    """In a thread, for either side may block. stdin stays open to the end, which would say that the worker is gone."""
    assert process.stdin is not None  # noqa: S101  both are pipes
    assert process.stdout is not None  # noqa: S101
    rest = memoryview(request)
    with contextlib.suppress(BrokenPipeError):  # it has died; the exit code says how
        while rest:
            rest = rest[process.stdin.write(rest) :]
    answers.append(process.stdout.read())
    process.wait()


def _describe(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
