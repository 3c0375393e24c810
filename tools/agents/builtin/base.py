"""What a built-in agent type is. Imported by the server and at every start of a worker, so it imports next to nothing."""

from __future__ import annotations

from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Literal

    from ..worker.task import Task

    Function = Callable[[Task], Any]
    Priority = Literal["low", "medium", "high", "critical"]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item for item in value)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "list of texts": _is_texts,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "number from 1": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
    "object": lambda value: isinstance(value, dict),
    "JSON": lambda _: True,
}


class Field:
    """One field of a prompt: `kind` is one of those above, as the error texts show it."""

    __slots__ = ("accepts", "kind", "needed")

    def __init__(self, kind: str, needed: bool = False) -> None:
        self.kind = kind
        self.needed = needed
        self.accepts = _KINDS[kind]


class Capability:
    """A function that does the work, named so that its module is imported at first use, and the fields that it takes."""

    __slots__ = ("fields", "function", "plain")

    def __init__(self, function: str, fields: Mapping[str, Field], plain: str = "text") -> None:
        """`function` is `module.name` in this package; `plain` is the field that a prompt without JSON fills."""
        self.function = function
        self.fields = MappingProxyType(dict(fields))
        self.plain = plain

    def load(self) -> Function:
        """Import and return the function: it takes a `Task` and returns what JSON can say."""
        from importlib import import_module

        module, name = self.function.split(".")
        return getattr(import_module(f".{module}", __package__), name)  # type: ignore[no-any-return]


class AgentType:
    """A built-in type of agent.

    `title` is the name of an agent that was given none; `owns` are the memory namespaces and vector collections that
    it may write to in permission mode `default`.
    """

    __slots__ = ("capabilities", "name", "owns", "priority", "summary", "title")

    def __init__(
        self,
        name: str,
        title: str,
        summary: str,
        capabilities: Mapping[str, Capability],
        owns: frozenset[str] = frozenset(),
        priority: Priority = "medium",
    ) -> None:
        self.name = name
        self.title = title
        self.summary = summary
        self.capabilities = MappingProxyType(dict(capabilities))
        self.owns = owns
        self.priority: Priority = priority
