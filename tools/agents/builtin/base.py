"""What a built-in agent type is. Every start of a worker imports this, so it imports next to nothing."""

from __future__ import annotations

from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Literal, TypeGuard

    from ..worker.task import Task

    Function = Callable[[Task], Any]
    Priority = Literal["low", "medium", "high", "critical"]


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_texts(value: Any) -> bool:
    return _is_list(value) and bool(value) and all(isinstance(item, str) and item for item in value)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "list of texts": _is_texts,
    "number from 1": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
    "object": lambda value: isinstance(value, dict),
}


class Field:
    """One field of a prompt: `kind` is one of those above, as the error texts show it."""

    __slots__ = ("accepts", "kind", "needed")

    def __init__(self, kind: str, needed: bool = False) -> None:
        self.kind = kind
        self.needed = needed
        self.accepts = _KINDS[kind]


class Choice(Field):
    """A field that takes one of a few texts."""

    __slots__ = ()

    def __init__(self, *choices: str, needed: bool = False) -> None:
        super().__init__("text", needed)
        self.kind = f"one of {' | '.join(choices)}"
        self.accepts = choices.__contains__


class Capability:
    """A function that does the work, and the fields that it takes."""

    __slots__ = ("fields", "function")

    def __init__(self, function: str, fields: Mapping[str, Field]) -> None:
        """`function` is `module.name` in this package; the module is imported at its first use."""
        self.function = function
        self.fields = MappingProxyType(dict(fields))

    def load(self) -> Function:
        """Import and return the function: it takes a `Task` and returns what JSON can say."""
        from importlib import import_module

        module, name = self.function.split(".")
        return getattr(import_module(f".{module}", __package__), name)  # type: ignore[no-any-return]


class AgentType:
    """A built-in type of agent.

    `title` is the name of an agent that was given none; `owns` are the memory namespaces and vector collections that
    it may write to in permission mode `default`. A prompt that is no JSON is the field `plain` of the first capability;
    a type that has None takes JSON only.
    """

    __slots__ = ("capabilities", "name", "owns", "plain", "priority", "summary", "title")

    def __init__(
        self,
        name: str,
        title: str,
        summary: str,
        capabilities: Mapping[str, Capability],
        owns: frozenset[str] = frozenset(),
        priority: Priority = "medium",
        plain: str | None = "text",
    ) -> None:
        self.name = name
        self.title = title
        self.summary = summary
        self.capabilities = MappingProxyType(dict(capabilities))
        self.owns = owns
        self.priority: Priority = priority
        self.plain = plain


class CrewMember:
    """An agent of a crew: its type, and the name and priority that it is spawned with."""

    __slots__ = ("name", "priority", "type")

    def __init__(self, type_name: str, name: str, priority: Priority) -> None:
        self.type = type_name
        self.name = name
        self.priority: Priority = priority
