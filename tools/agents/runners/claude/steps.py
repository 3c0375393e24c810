"""What goes on in a session at a moment: requests to the model and tools, of the main thread and of subagents."""

from __future__ import annotations

from ..base import Work
from ..gate import Gate

MAIN = ""  # the thread that is no subagent's


class Steps:
    """Tells a Gate what begins and ends.

    Several tools of one answer may run beside each other, and subagents beside tools. The tool that runs a subagent
    is no step of its own: it only waits. Claude Code runs tools while the rest of the answer still comes in; of the
    main thread the stream tells when it has come, of a subagent the first tool ends the request.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._going_on: set[str] = set()

    def clear(self) -> None:
        """The work has ended, whatever was left open."""
        for step in list(self._going_on):
            self._end(step)

    @property
    def requests(self) -> bool:
        """Whether a request to the model is under way."""
        return any(step.startswith("request:") for step in self._going_on)

    async def request(self, work: Work, thread: str) -> None:
        """A request is to be sent: wait until the gate is open and the budget allows it."""
        await self._pass(f"request:{thread}", work, spends=True)

    def requested(self, thread: str) -> None:
        """Its answer has come."""
        self._end(f"request:{thread}")

    async def tool(self, work: Work, tool_id: str, *, waits: bool) -> None:
        """A tool is to be run: wait until the gate is open. One that only `waits` for a subagent is no step."""
        await self._pass(f"tool:{tool_id}", work)
        if waits:
            self._end(f"tool:{tool_id}")

    def ran(self, tool_id: str) -> None:
        """It has been run, or was refused."""
        self._end(f"tool:{tool_id}")

    def _end(self, step: str) -> None:
        if step in self._going_on:
            self._going_on.remove(step)
            self.gate.end()

    async def _pass(self, step: str, work: Work, *, spends: bool = False) -> None:
        self._end(step)
        self.gate.begin()
        try:
            await self.gate.boundary(work, spends=spends)
        except BaseException:
            self.gate.end()
            raise
        self._going_on.add(step)
