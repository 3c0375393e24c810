"""What an agent lets its client choose in a session: its mode and its model, and which it says that it has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from acp.schema import (
    SessionConfigOptionBoolean,
    SessionConfigOptionSelect,
    SessionConfigSelectGroup,
    SessionModeState,
)

Category = Literal["mode", "model"]
ConfigOption = SessionConfigOptionSelect | SessionConfigOptionBoolean


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them. `option` is its id among the config options; None: it is set as the mode of the session."""

    values: Sequence[str]
    current: str
    option: str | None = None


class Choices:
    """Takes what the agent tells. A config option stands for a mode of the same meaning, as the protocol says."""

    def __init__(self) -> None:
        self._modes: Choice | None = None
        self._options: Mapping[str, Choice] = {}
        self._told = asyncio.Event()

    def get(self, category: Category) -> Choice | None:
        """None if the agent offers no such choice."""
        return self._options.get(category) or (self._modes if category == "mode" else None)

    def take_modes(self, modes: SessionModeState | None) -> None:
        if modes is not None:
            self._modes = Choice([mode.id for mode in modes.available_modes], modes.current_mode_id)
            self._told.set()

    def take_mode(self, current: str) -> None:
        if self._modes is not None:
            self._modes = Choice(self._modes.values, current)
            self._told.set()

    def take_options(self, options: Sequence[ConfigOption] | None) -> None:
        """All of them, as they are now; None tells nothing."""
        if options is not None:
            self._options = {
                str(option.category): Choice(_values(option), option.current_value, option.id)
                for option in reversed(options)  # of several in a category the first counts
                if isinstance(option, SessionConfigOptionSelect)
            }
            self._told.set()

    async def is_told(self, category: Category, value: str) -> None:
        """Returns once the agent has said that it has this value."""
        while (choice := self.get(category)) is None or choice.current != value:
            self._told.clear()
            await self._told.wait()


def _values(option: SessionConfigOptionSelect) -> Sequence[str]:
    values: list[str] = []
    for entry in option.options:
        members = entry.options if isinstance(entry, SessionConfigSelectGroup) else [entry]
        values += [member.value for member in members]
    return values
