"""What an agent may do to the deck: its permission mode binds every tool call that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from quarterdeck.storage.errors import DeniedError

from ..reads import only_reads
from .tracker import RECORDS
from .types import SpawnableType

PermissionMode = Literal["plan", "default", "acceptEdits", "bypassPermissions"]
MODES: tuple[str, ...] = get_args(PermissionMode)
"""From the narrowest to the widest."""

READS = frozenset({
    "memory_usage", "vector_collections", "uploads", "vector_search", "vector_shape", "vector_points",
    "agents_list", "query_list", "server_status",
})  # fmt: skip
"""Tools with which an agent may read."""

WRITES = {
    "memory_usage": "namespace",
    "vector_upsert": "collection",
    "vector_put_points": "collection",
    "vector_delete": "collection",
}
"""Tools that write, and the argument that names where."""

CALLABLE = READS | WRITES.keys()
"""All tools that an agent may call, with some arguments."""


class Rights:
    """The rights of one agent: `plan` reads, `default` also writes to the places in `own`, `acceptEdits` writes
    anywhere but into the deck's own records. A query may lower `mode` while it runs."""

    def __init__(self, mode: str, own: Iterable[str]) -> None:
        self.mode = mode
        self._own = frozenset(own)

    def check(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """Raises DeniedError if the agent may not make this call."""
        if tool in READS and only_reads(tool, arguments):
            return
        if tool not in WRITES:
            allowed = ", ".join(sorted(CALLABLE))
            raise DeniedError(f"an agent may not call {tool} like this; it may call {allowed}")
        place = arguments.get(WRITES[tool], "default")
        if not isinstance(place, str):
            raise DeniedError(f"{WRITES[tool]}: should be a text")
        if self.mode == "plan":
            raise DeniedError(f"permission mode plan only reads; {tool} would write to {place!r}")
        if place in RECORDS:
            raise DeniedError(f"{place!r} holds the deck's own records; agents only read it")
        if self.mode == "default" and place not in self._own:
            own = ", ".join(sorted(self._own)) or "nothing"
            raise DeniedError(
                f"permission mode default writes only to {own}, not to {place!r}; "
                "spawn the agent with permissionMode acceptEdits to allow it"
            )


def lower(wanted: str | None, granted: str) -> str:
    """The mode of a query of an agent that was granted `granted`.

    Raises:
        DeniedError: more is wanted than granted.
    """
    if wanted is None:
        return granted
    if is_wider(wanted, granted):
        raise DeniedError(f"permission mode {wanted} is wider than the agent's {granted}; spawn an agent that has it")
    return wanted


def is_wider(mode: str, than: str) -> bool:
    return MODES.index(mode) > MODES.index(than)


def refuse_wider(mode: str, kind: SpawnableType, *, confirmed: bool) -> None:
    """Whether agents of the type may have `mode` at all; `confirmed`: a human said yes to it.

    Agents on a model act on the user's own files, so that more than `default` is for the configuration to allow; a
    built-in worker has only the deck, where whoever spawns it may let it write anywhere (acceptEdits).

    Raises:
        DeniedError: no; the text names the setting.
    """
    free = "acceptEdits" if kind.runner == "process" else "default"
    if is_wider(mode, free) and is_wider(mode, kind.widest or free):
        raise DeniedError(
            f"permission mode {mode} is wider than agents of type {kind.name} may have; "
            f'the user can allow it: [agents.widest_mode] {kind.name} = "{mode}"'
        )
    if mode == "bypassPermissions" and not kind.sandboxed:
        raise DeniedError(f"permission mode bypassPermissions needs a sandbox, and type {kind.name} has none")
    if mode == "bypassPermissions" and not confirmed:
        raise DeniedError("permission mode bypassPermissions needs a human's yes, and there was none")


def may_raise(mode: str, granted: str, kind: SpawnableType, *, confirmed: bool) -> None:
    """Whether a running query may be given more than it has: what its agent was granted, or what the user's
    configuration names for its type.

    Raises:
        DeniedError: no; the text says who could allow it.
    """
    if is_wider(mode, granted) and is_wider(mode, kind.widest or granted):
        raise DeniedError(
            f"permission mode {mode} is wider than the agent's {granted}; "
            f'the user can allow it for its type: [agents.widest_mode] {kind.name} = "{mode}"'
        )
    refuse_wider(mode, kind, confirmed=confirmed)


def needs_consent(mode: str | None, kind: SpawnableType) -> bool:
    """Whether a human must say yes before an agent of the type gets that mode; not if it is denied anyway."""
    if mode != "bypassPermissions":
        return False
    try:
        refuse_wider(mode, kind, confirmed=True)
    except DeniedError:
        return False
    return True


def question(who: Iterable[str]) -> str:
    """What the human is asked."""
    return f"Let {', '.join(who)} act without asking for permission (bypassPermissions, in the type's sandbox)?"
