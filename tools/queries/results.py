"""Results that are too large for an answer: a preview, and the rest part by part."""

from __future__ import annotations

import json
from typing import Any

from typing_extensions import TypedDict

from quarterdeck.storage.runs.base import Query

BYTES_PER_TOKEN = 4


class ResultPart(TypedDict, total=False):
    """A whole `result`; or None, and characters of its JSON text as `part`, after which `nextOffset` goes on."""

    result: Any
    part: str
    nextOffset: int | None
    resultBytes: int


def result_part(row: Query, max_tokens: int, offset: int | None = None) -> ResultPart:
    """The row's result if it fits into `max_tokens` (4 bytes each); else, or with an `offset`, a part of its text."""
    text = json.dumps(row.result, ensure_ascii=False)
    size, most = len(text.encode("utf-8", "replace")), max_tokens * BYTES_PER_TOKEN
    if offset is None and size <= most:
        return {"result": row.result}
    begin = offset or 0
    part = text[begin : begin + most]
    while len(json.dumps(part, ensure_ascii=False).encode("utf-8", "replace")) > most + 2:  # as JSON text it grows
        part = part[: len(part) * 3 // 4]
    end = begin + len(part)
    return {"result": None, "part": part, "nextOffset": end if end < len(text) else None, "resultBytes": size}
