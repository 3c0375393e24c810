"""The second process of an agent, for work that needs more than the standard library.

    python -I -m quarterdeck.tools.agents.library FUNCTION

One JSON object of keyword arguments on a line of stdin, which then stays open: its end means that the worker is gone,
and ends this process at once. One JSON object on stdout: {"result": any} or {"error": text}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from threading import Thread
from typing import Any

from quarterdeck.storage.errors import DeckError

WORKER_GONE = 1

FUNCTIONS = {
    "extract_chunks": "documents.extract_chunks",
    "extract_text": "documents.extract_text",
    "find_clusters": "clustering.find_clusters",
    "find_outliers": "clustering.find_outliers",
}
"""What a worker may ask for -> module and name in this package; the module is imported at its use."""


def main(name: str) -> int:
    """Serve one request; returns the exit code."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # whatever a library prints goes to stderr
        arguments = json.loads(sys.stdin.buffer.readline())
        Thread(target=_end_with_worker, daemon=True).start()
        answers.write(json.dumps(_answer(name, arguments)).encode())
    return 0


def _end_with_worker() -> None:
    while os.read(0, 1):  # a buffered read would hold a lock that the interpreter wants at its end
        pass
    os._exit(WORKER_GONE)


def _answer(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        module, function = FUNCTIONS[name].split(".")
        work: Callable[..., Any] = getattr(import_module(f".{module}", __package__), function)
        return {"result": work(**arguments)}
    except DeckError as exc:
        return {"error": exc.message}
    except Exception as exc:  # noqa: BLE001  the top of the process: a defect is an answer too
        sys.excepthook(type(exc), exc, exc.__traceback__)
        return {"error": f"{type(exc).__name__}: {exc}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
