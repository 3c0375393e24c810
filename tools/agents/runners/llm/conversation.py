"""What an agent and its model have said, kept in a file so that another server can go on with it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_ai.messages import ModelMessage, ModelResponse


@dataclass(slots=True)
class Conversation:
    """All queries of an agent. One that does not come to its answer leaves no trace in it: the next one would have its
    prompt answered, too."""

    query: str | None = None  # the last one
    before: int = 0  # messages that were there when it began
    answer: str | None = None  # to it; None: it has none yet
    messages: list[ModelMessage] = field(default_factory=list[ModelMessage])

    def begin(self, query: str, *, resumed: bool) -> None:
        """The next query; one that is `resumed` goes on where it was, if it is the last."""
        if resumed and query == self.query:
            return
        if self.answer is None:
            del self.messages[self.before :]
        self.query, self.before, self.answer = query, len(self.messages), None

    @property
    def responses(self) -> list[ModelResponse]:
        """To the last query."""
        return [message for message in self.messages[self.before :] if isinstance(message, ModelResponse)]

    def used(self) -> dict[str, float]:
        """Tokens and US dollars of the last query, as far as its model tells and its prices are known."""
        usages = [response.usage for response in self.responses]
        tokens = [usage.total_tokens for usage in usages if not usage.unmeasured_requests]
        costs = [usage.cost for usage in usages if usage.cost is not None]
        known = {"tokens": float(sum(tokens))} if tokens else {}
        return known | ({"usd": float(sum(costs))} if costs else {})


_FILE = TypeAdapter(Conversation)


def load(path: Path) -> Conversation:
    """Raises OSError or ValueError: it cannot be read."""
    try:
        return _FILE.validate_json(path.read_bytes())
    except ValidationError as exc:
        raise ValueError(f"{path} is damaged: {exc.error_count()} fields are not what they should be") from None


def save(conversation: Conversation, path: Path) -> None:
    """Replace the file as a whole; only its owner may read it. Raises OSError, ValueError."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(_FILE.dump_json(conversation))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
