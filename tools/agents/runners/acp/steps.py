"""What goes on in an agent at a moment, as far as the protocol tells: its turn, and tools that run."""

from __future__ import annotations

from ..base import Work
from ..gate import Gate

TURN = ""  # the agent itself is at work; tools go by the ids of their calls


class Steps:
    """Tells a Gate what begins and ends.

    An agent that has asked for permission waits for the answer: its turn stands still until then, while other tools
    may go on.
    """

    def __init__(self) -> None:
        self.gate = Gate()
        self._going_on: set[str] = set()

    @property
    def agent_works(self) -> bool:
        """Whether the agent is at work, and not waiting for the deck."""
        return TURN in self._going_on

    def begin(self, step: str) -> None:
        if step not in self._going_on:
            self._going_on.add(step)
            self.gate.begin()

    def end(self, step: str) -> None:
        if step in self._going_on:
            self._going_on.remove(step)
            self.gate.end()

    def clear(self) -> None:
        """The turn has ended, whatever was left open."""
        for step in list(self._going_on):
            self.end(step)

    async def boundary(self, work: Work, step: str) -> None:
        """Stand here, instead of the turn and of `step`, until the gate is open and the budget allows what follows."""
        self.gate.begin()
        self.end(TURN)
        self.end(step)
        try:
            await self.gate.boundary(work, spends=True)
            self.begin(TURN)
        finally:
            self.gate.end()
