"""How a service says that what it keeps has changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar


class Changing(Protocol):
    """A service whose contents somebody may look at while they change."""

    on_change: Callable[[], None]
    """Called after each change; whoever wants to know sets it."""


ServiceT = TypeVar("ServiceT", bound=Changing)
P = ParamSpec("P")
T = TypeVar("T")


def tells(
    method: Callable[Concatenate[ServiceT, P], Awaitable[T]],
) -> Callable[Concatenate[ServiceT, P], Coroutine[Any, Any, T]]:
    """Decorates a method that changes something. A failure tells too: part of it may have been done."""

    @wraps(method)
    async def telling(service: ServiceT, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(service, *args, **kwargs)
        finally:
            service.on_change()

    return telling


def nobody() -> None:
    """Who is told until somebody wants to know."""
