"""Which calls only read: what an agent in mode `plan` may do to the deck, and all that a read-only token may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACTIONS = {
    "memory_usage": {"retrieve", "list", "search", "namespaces"},
    "vector_collections": {"list", "describe"},
    "uploads": {"list", "read"},
    "optimizer": {"status"},
}
"""Tools with an `action`, and the actions that change nothing. To presign an upload hands on a right: that is none."""

TOOLS = {
    "agents_list", "query_list", "query_wait", "server_status", "vector_points", "vector_search", "vector_shape",
}  # fmt: skip
"""Tools that change nothing, whatever their arguments."""


def only_reads(tool: str, arguments: Mapping[str, Any]) -> bool:
    action = arguments.get("action")
    return tool in TOOLS or (isinstance(action, str) and action in ACTIONS.get(tool, ()))
