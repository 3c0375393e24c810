"""A type whose capabilities misbehave. Runs inside a worker process: only the standard library is there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quarterdeck.tools.agents.worker.task import Task


def echo(task: Task) -> Any:
    return {"prompt": task.prompt, "agent": [task.agent.id, task.agent.name, task.agent.folder]}


def chatter(task: Task) -> Any:
    """Everything that could get in between the lines of the protocol."""
    print("printed")
    sys.stdout.flush()
    os.write(1, b"written\n")
    subprocess.run([sys.executable, "-I", "-S", "-c", "print('by a child')"], check=True)
    return {"childReads": subprocess.run(["cat"], check=True, capture_output=True).stdout.decode()}


def crash(task: Task) -> Any:
    raise ZeroDivisionError("as planned")


def unspeakable(task: Task) -> Any:
    return {"a set": {1}}


def not_a_number(task: Task) -> Any:
    return float("nan")


def surrogate(task: Task) -> Any:
    return "\ud800 alone"


def steps(task: Task) -> Any:
    for number in range(10_001):
        task.progress(number, 10_000)
    return "done"


def call(task: Task) -> Any:
    return task.call("memory_usage", action="retrieve", key="k", namespace=None)


def call_and_catch(task: Task) -> Any:
    try:
        return task.call("memory_usage", action="nonsense")
    except Exception as exc:  # noqa: BLE001  whatever it is, by name
        return f"{type(exc).__name__}: {exc}"


def spin(task: Task) -> Any:
    """Busy for ever, without a safe point."""
    task.progress(0, 1, "spinning")
    while True:
        pass


def main() -> int:
    """Start a worker whose only type is this one."""
    base, worker = import_module("agents.builtin.base"), import_module("agents.worker.main")
    functions = (echo, chatter, crash, unspeakable, not_a_number, surrogate, steps, call, call_and_catch, spin)
    fields = {"text": base.Field("text"), "count": base.Field("number from 1")}
    capabilities = {f.__name__: base.Capability(f"probe.{f.__name__}", fields) for f in functions}
    sys.modules["agents.builtin.probe"] = sys.modules["probe"]
    vars(worker)["TYPES"] = {"probe": base.AgentType("probe", "Probe", "misbehaves", capabilities)}
    return int(worker.main("probe"))
