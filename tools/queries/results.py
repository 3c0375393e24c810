"""Results that are too large for one answer: a preview, and the rest part by part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from quarterdeck.storage.runs.base import Query

BYTES_PER_TOKEN = 4
LEAST_PART = 400  # bytes of a result that are shown whatever else the answer holds


class ResultPart(TypedDict, total=False):
    """A whole `result`, or characters of its JSON text as `part`; `nextOffset` is None at the end."""

    result: Any
    part: str
    nextOffset: int | None
    resultBytes: int


def first_parts(rows: Sequence[Query], max_tokens: int) -> list[ResultPart]:
    """Each row's result, as far as all of them together fit into `max_tokens` (4 bytes each)."""
    left = max_tokens * BYTES_PER_TOKEN
    parts: list[ResultPart] = []
    for row in rows:
        text = _text(row)
        size = len(text.encode())
        if size <= left:
            parts.append({"result": row.result})
            left -= size
        else:
            parts.append(_part(text, size, 0, max(left, LEAST_PART)))
            left = 0
    return parts


def part_at(row: Query, offset: int, max_tokens: int) -> ResultPart:
    """The characters of the row's result from `offset` on."""
    text = _text(row)
    return _part(text, len(text.encode()), offset, max_tokens * BYTES_PER_TOKEN)


def _text(row: Query) -> str:
    return json.dumps(row.result, ensure_ascii=False)


def _part(text: str, size: int, offset: int, most: int) -> ResultPart:
    """As many characters as fit into `most` bytes once they are JSON again, in which some take twice their size."""
    part = text[offset : offset + most]
    while len(json.dumps(part, ensure_ascii=False).encode("utf-8", "replace")) > most + 2:
        part = part[: len(part) * 3 // 4]
    end = offset + len(part)
    return {"part": part, "nextOffset": end if end < len(text) else None, "resultBytes": size}
