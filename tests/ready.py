"""A part that is there already, for what would open it on its first use."""

from __future__ import annotations

from typing import TypeVar

from quarterdeck.storage.lazy import OnFirstUse

T = TypeVar("T")


def ready(part: T) -> OnFirstUse[T]:
    async def give() -> T:
        return part

    return OnFirstUse(give)
