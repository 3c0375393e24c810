"""Results of any size: whole where they fit, else in parts that join to the very same."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.storage.runs.base import ProcessId, Query
from quarterdeck.tools.queries.results import result_part

values = st.recursive(
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(result=values, max_tokens=st.integers(10, 300))
def test_every_result_can_be_read_whole_and_no_part_is_too_long(result: Any, max_tokens: int) -> None:
    row = Query("q", "a", "t", "p", ProcessId("h", "b", 1, 1.0), 0, status="completed", result=result)
    first = result_part(row, max_tokens)
    size = len(json.dumps(result, ensure_ascii=False).encode())
    if size <= 4 * max_tokens:
        assert first == {"result": result}
        return
    assert (first.get("result"), first.get("resultBytes")) == (None, size)
    text, part = "", first
    while True:
        assert len(json.dumps(part.get("part"), ensure_ascii=False).encode()) <= 4 * max_tokens + 2
        assert part.get("part")
        text += part.get("part", "")
        following = part.get("nextOffset")
        if following is None:
            break
        part = result_part(row, max_tokens, following)
    assert json.loads(text) == result


def test_reading_past_the_end_gives_nothing_more() -> None:
    row = Query("q", "a", "t", "p", ProcessId("h", "b", 1, 1.0), 0, status="completed", result="x")
    assert result_part(row, 200, 99) == {"result": None, "part": "", "nextOffset": None, "resultBytes": 3}
