"""A piece of work for an agent whose test needs no deck."""

from __future__ import annotations

from typing import Any

from quarterdeck.tools.agents.runners.base import Work


async def _allowed() -> None:
    return None


def work(prompt: str = "", work_id: str = "q", **options: Any) -> Work:
    """Work that nobody listens to, but for the callbacks in `options`."""

    def ignore(_told: object) -> None:
        return None

    callbacks: dict[str, Any] = {
        "on_progress": ignore,
        "on_usage": ignore,
        "on_model": ignore,
        "on_session": ignore,
        "before_request": _allowed,
    }
    return Work(work_id, prompt, **{**callbacks, **options})
