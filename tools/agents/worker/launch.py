"""Becoming a worker: a fresh process takes limits, folder and environment, then runs what its order names.

An order is JSON: `{"type": name}` for a built-in type, or, for a command that the user configured,

    {"command": [text], "cwd": text, "env": {text: text}, "limits": {"RLIMIT_…": number}}
"""

from __future__ import annotations

import json
import os
import signal
import sys

from .main import main as run_builtin  # here, so that a fork of the supervisor has it

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MARK = "DECK_SERVER"  # this variable names the server that a process belongs to, for whoever clears up after it
CANNOT_RUN = 127  # the exit code that shells use for it


def main(order: str) -> int:
    """The plain way: one new interpreter for one order, as JSON; returns the exit code."""
    return launch(json.loads(order))


def launch(order: dict[str, Any]) -> int:
    """Run the order; returns the exit code, or never where the process has become another program."""
    if "command" not in order:
        return run_builtin(order["type"])
    try:
        if sys.platform == "win32":
            return _run(order)
        _become(order)
    except (OSError, ValueError) as exc:
        print(f"cannot run {order['command'][0]!r}: {exc}", file=sys.stderr)  # noqa: T201  the server reports it
    return CANNOT_RUN


def _become(order: dict[str, Any]) -> None:
    import resource

    for name, limit in order["limits"].items():
        number = getattr(resource, name)
        _, most = resource.getrlimit(number)
        value = limit if most == resource.RLIM_INFINITY else min(limit, most)
        try:
            resource.setrlimit(number, (value, value))
        except (OSError, ValueError) as exc:  # macOS takes no limit of address space
            raise OSError(f"this system does not take {name} {value}: {exc}") from exc
    os.chdir(order["cwd"])
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and an ignored signal stays ignored
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(order["command"][0], order["command"], _environment(order))  # noqa: S606  no shell: that is the point


def _run(order: dict[str, Any]) -> int:
    """Windows, where no process becomes another program: run it as a child, which what ends this tree reaches."""
    import subprocess

    if order["limits"]:
        raise OSError("this system has no limits of memory and open files for a process")
    return subprocess.run(
        order["command"],
        cwd=order["cwd"],
        env=_environment(order),
        stdin=sys.stdin,
        stdout=sys.stdout,
        stderr=sys.stderr,
        check=False,
    ).returncode


def _environment(order: dict[str, Any]) -> dict[str, str]:
    mark = {MARK: os.environ[MARK]} if MARK in os.environ else {}
    return {**order["env"], **mark}
