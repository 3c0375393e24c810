"""What the demo shows: rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from io import TextIOWrapper

PLAIN_WIDTH = 140  # columns where there is no terminal to ask


class CheckFailedError(Exception):
    """A look did not show what should be there."""


@dataclass(slots=True)
class Step:
    """A row of the final table."""

    title: str
    done: str = ""
    seconds: float = 0.0
    checks: int = 0  # that held
    failure: str | None = None

    @property
    def verdict(self) -> str:
        return "no" if self.failure else f"yes, {self.checks} {'check' if self.checks == 1 else 'checks'}"


class Report:
    """Prints as the demo goes and keeps what the table at the end says."""

    def __init__(self) -> None:
        # Documents hold characters that the encoding of the output may not have.
        cast("TextIOWrapper[Any]", sys.stdout).reconfigure(errors="replace")
        self._console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
        self._steps: list[Step] = []

    def say(self, text: str, style: str = "") -> None:
        """Print a line as it is."""
        self._console.print(Text(text, style), soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Generator[Step]:
        """Time a step. Whatever it raises ends up in its `failure`."""
        step = Step(title)
        self._steps.append(step)
        self.say(f"\n{len(self._steps)}. {title}", "bold cyan")
        began = time.monotonic()
        try:
            yield step
        except Exception as exc:  # noqa: BLE001  the top of a step: the demo ends with one line, not a traceback
            step.failure = _reason(exc)
        finally:
            step.seconds = time.monotonic() - began

    def check(self, claim: str, holds: bool) -> None:
        """Note that the current step's `claim` was seen to hold.

        Raises:
            CheckFailedError: it does not.
        """
        if not holds:
            raise CheckFailedError(f"not so: {claim}")
        self._steps[-1].checks += 1
        self.say(f"   verified: {claim}", "green")

    @contextmanager
    def bars(self) -> Generator[Progress]:
        """Progress bars; where there is no terminal, a line for each once they are done."""
        bar = [BarColumn(30)] if self._console.is_terminal else []
        name, count = "   {task.description:<20}", "{task.completed:.0f}/{task.total:.0f}"
        with Progress(TextColumn(name, markup=False), *bar, TextColumn(count), console=self._console) as progress:
            yield progress

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows under a header."""
        table = Table(*header, box=None, header_style="dim", padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(table)

    def summary(self) -> bool:
        """Print the table of all steps; returns whether each was verified."""
        rows = [
            (str(number), step.title, step.done, f"{step.seconds:.2f} s", step.verdict)
            for number, step in enumerate(self._steps, start=1)
        ]
        self.say("")
        self.table(("", "step", "what was done", "time", "verified"), rows)
        total = sum(step.seconds for step in self._steps)
        failed = [step for step in self._steps if step.failure]
        for step in failed:
            self.say(f"\nFAILED after {total:.1f} s: {step.title}: {step.failure}", "bold red")
        if not failed:
            self.say(f"\nAll {len(self._steps)} steps verified in {total:.1f} s.", "bold green")
        return not failed


def _reason(exc: Exception) -> str:
    """One line; of a group of errors the first one's."""
    if isinstance(exc, ExceptionGroup):
        return _reason(cast("ExceptionGroup[Exception]", exc).exceptions[0])
    return " ".join(str(exc).split()) or type(exc).__name__
