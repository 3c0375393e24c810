"""Results of any size: whole where they fit, else in parts that join to the very same."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.storage.runs.base import ProcessId, Query
from quarterdeck.tools.queries.results import LEAST_PART, first_parts, part_at

values = st.recursive(
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def query(result: Any) -> Query:
    return Query("q", "a", "t", "p", ProcessId("h", "b", 1, 1.0), 0, status="completed", result=result)


@given(results=st.lists(values, min_size=1, max_size=4), max_tokens=st.integers(200, 400))
def test_every_result_can_be_read_whole_and_no_answer_is_too_long(results: list[Any], max_tokens: int) -> None:
    rows = [query(result) for result in results]
    parts = first_parts(rows, max_tokens)
    shown = sum(len(json.dumps(part.get("part", part.get("result")), ensure_ascii=False).encode()) for part in parts)
    assert shown <= max_tokens * 4 + (LEAST_PART + 2) * len(parts)
    for row, part in zip(rows, parts, strict=True):
        if "part" not in part:
            assert part == {"result": row.result}
            continue
        text = part.get("part", "")
        following = part.get("nextOffset")
        while following is not None:
            more = part_at(row, following, max_tokens)
            assert more.get("part")
            text += more.get("part", "")
            following = more.get("nextOffset")
        assert json.loads(text) == row.result
        assert part.get("resultBytes") == len(text.encode())
