"""What an agent is doing, in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

LENGTH = 200  # characters


class Progress:
    """Makes a line of what comes in: the end of the text that is being written, or the tool that is called."""

    def __init__(self) -> None:
        self._text = ""

    def of_event(self, event: Mapping[str, Any]) -> str | None:
        """Of a part of an answer that streams in; None if it says nothing."""
        if event["type"] == "content_block_start":
            self._text = ""
        text = event.get("delta", {}).get("text") if event["type"] == "content_block_delta" else None
        if not text:
            return None
        self._text = (self._text + text)[-LENGTH:]
        return self._text.strip()

    def of_tools(self, content: Sequence[Mapping[str, Any]]) -> str | None:
        """Of the tools that a message calls; None if there are none."""
        calls = [f"{block['name']} {json.dumps(block['input'])}" for block in content if block["type"] == "tool_use"]
        return "; ".join(calls)[:LENGTH] or None
