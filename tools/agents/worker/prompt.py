"""From a prompt's text to a capability and the fields that it takes."""

from __future__ import annotations

import json

from .task import PromptError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..builtin.base import AgentType, Capability


def read_prompt(text: str, agent_type: AgentType) -> tuple[Capability, dict[str, Any]]:
    """Find what `text` asks for: JSON `{"do": capability, …fields}`, or any other text for the first capability.

    A field that is null counts as not given. Text that begins as `{"` is meant as JSON: one with a slip is refused
    rather than taken for plain text.

    Raises:
        PromptError: broken JSON, an unknown capability, or fields that it does not take; the text names the valid ones.
    """
    first, known = next(iter(agent_type.capabilities)), ", ".join(agent_type.capabilities)
    asked = _read_object(text)
    if asked is None:
        asked = {} if agent_type.plain is None else {agent_type.plain: text}
    name = asked.pop("do", first)
    capability = agent_type.capabilities.get(name) if isinstance(name, str) else None
    if capability is None:
        raise PromptError(f'{agent_type.name} cannot do {name!r}; "do" is one of: {known}')
    _check_fields(name, capability, asked)
    return capability, asked


def _read_object(text: str) -> dict[str, Any] | None:
    begin = text.lstrip()
    if not begin.startswith("{"):
        return None
    try:
        value: dict[str, Any] = json.loads(text)  # what starts with a brace is an object, or no JSON
    except (ValueError, RecursionError) as exc:
        if begin[1:].lstrip().startswith('"'):
            raise PromptError(f'the prompt begins as JSON but is none: {exc}; write {{"do": capability, …}}') from None
        return None
    return {key: field for key, field in value.items() if field is not None}


def _check_fields(name: str, capability: Capability, given: dict[str, Any]) -> None:
    fields = capability.fields
    valid = ", ".join(f"{key}{' (needed)' if field.needed else ''}: {field.kind}" for key, field in fields.items())
    for key, value in given.items():
        if key not in fields:
            raise PromptError(f"{name} has no field {key!r}; its fields are {valid}")
        if not fields[key].accepts(value):
            raise PromptError(f"{name}: {key} must be {fields[key].kind}, got {_short(value)}; its fields are {valid}")
    for key, field in fields.items():
        if field.needed and key not in given:
            raise PromptError(f"{name} needs {key!r}; its fields are {valid}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
