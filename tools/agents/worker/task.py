"""One piece of work, as a capability sees it."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROGRESS_INTERVAL = 0.05  # seconds between two progress messages


class Cancelled(Exception):  # noqa: N818  not an error: the server asked for it
    """The task was cancelled; a capability lets this pass."""


class CallError(Exception):
    """The deck refused a call; the text is the deck's."""


class PromptError(Exception):
    """The prompt asks for something that cannot be done; the text names what can."""


class Agent:
    """Who works: the id and name that the agent was spawned with, and the folder that its type may write in."""

    def __init__(self, agent_id: str, name: str, folder: str) -> None:
        self.id = agent_id
        self.name = name
        self.folder = folder


class Task:
    """A capability gets one: what is asked, a way to report and a way to call the deck. Not for use by several threads.

    `prompt` holds the fields of the prompt, without `do`, checked against those that the capability takes.
    """

    def __init__(
        self,
        task_id: str,
        prompt: dict[str, Any],
        agent: Agent,
        send: Callable[[dict[str, Any]], None],
        call: Callable[[str, dict[str, Any]], Any],
        safe_point: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = task_id
        self.prompt = prompt
        self.agent = agent
        self._send = send
        self._call = call
        self._safe_point = safe_point
        self._monotonic = monotonic
        self._next_report = 0.0
        self._held: dict[str, Any] | None = None

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Report that `done` of `total` steps are done; call it often, this is where a cancelled task ends.

        Reports closer together than PROGRESS_INTERVAL are held back; the first and the last are always sent.

        Raises:
            Cancelled: the task was cancelled.
        """
        self.check()
        self._held = {"type": "progress", "id": self.id, "done": done, "total": total, "message": message}
        if self._monotonic() >= self._next_report:
            self.flush()

    def flush(self) -> None:
        """Send the report that was held back, if there is one."""
        if self._held is not None:
            self._send(self._held)
            self._held = None
            self._next_report = self._monotonic() + PROGRESS_INTERVAL

    def check(self) -> None:
        """A safe point without a report: here a held task stands until it is released.

        Raises:
            Cancelled: the task was cancelled.
        """
        self._safe_point()

    def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool of the deck and wait for its structured answer.

        An argument that is None is left out, but for `value`: what is to be stored may be null.

        Raises:
            CallError: the deck refused.
            Cancelled: the task was cancelled, before or while the deck worked on it.
        """
        self.check()
        return self._call(tool, {k: v for k, v in arguments.items() if v is not None or k == "value"})
