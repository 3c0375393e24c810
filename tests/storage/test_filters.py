"""The filter language: what matches, what never does, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.storage.vectors.filters import MAX_DEPTH, OPERATORS, parse_filter

PAYLOAD: dict[str, Any] = {
    "lang": "en",
    "year": 2021,
    "ratio": 0.5,
    "draft": False,
    "nothing": None,
    "tags": ["red", "green"],
    "empty": [],
    "author": {"name": "Ada", "born": 1815},
    "parts": [{"kind": "head", "size": 1}, {"kind": "tail", "size": 9}],
    "date": "2024-05-01",
}


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"lang": "en"},
        {"lang": {"eq": "en"}, "year": 2021},
        {"year": 2021.0},
        {"year": {"ne": 2022}},
        {"year": {"gte": 2021, "lt": 2022}},
        {"year": {"gt": 2020, "lte": 2021}},
        {"ratio": {"gt": 0, "lt": 1}},
        {"date": {"gte": "2024-01-01", "lt": "2025"}},
        {"draft": False},
        {"draft": {"in": [False]}},
        {"nothing": None},
        {"nothing": {"exists": True}},
        {"missing": {"exists": False}},
        {"missing": {"ne": "x"}},
        {"empty": {"exists": True}},
        {"lang": {"in": ["de", "en"]}},
        {"tags": "green"},
        {"tags": {"in": ["blue", "red"]}},
        {"tags": {"ne": "blue"}},
        {"author.name": "Ada"},
        {"author.born": {"lt": 1900}},
        {"author": {"exists": True}},
        {"parts.kind": "tail"},
        {"parts.size": {"gt": 5}},
        {"and": [{"lang": "en"}, {"year": 2021}]},
        {"or": [{"lang": "de"}, {"year": 2021}]},
        {"not": {"lang": "de"}},
        {"not": {"and": [{"lang": "en"}, {"year": 2020}]}},
        {"lang": "en", "or": [{"tags": "blue"}, {"not": {"draft": True}}]},
    ],
)
def test_matches_and_its_negation_does_not(where: dict[str, Any]) -> None:
    assert parse_filter(where)(PAYLOAD)
    assert not parse_filter({"not": where})(PAYLOAD)


@pytest.mark.parametrize(
    "where",
    [
        {"lang": "EN"},
        {"year": "2021"},
        {"draft": 0},
        {"draft": "False"},
        {"draft": {"in": [0, "", None]}},
        {"nothing": "None"},
        {"nothing": False},
        {"missing": None},
        {"missing": {"exists": True}},
        {"missing": {"lt": 5}},
        {"year": {"lt": "3000"}},
        {"lang": {"gt": 1}},
        {"draft": {"gte": 0}},
        {"nothing": {"lte": 0}},
        {"tags": {"ne": "red"}},
        {"empty": {"in": ["red", None]}},
        {"lang": {"in": []}},
        {"lang": "en", "year": 2020},
        {"year": {"gt": 2000, "lt": 2021}},
        {"author.age": 1},
        {"lang.name": "en"},
        {"and": [{"lang": "en"}, {"year": 2020}]},
        {"or": [{"lang": "de"}, {"year": 2020}]},
        {"not": {}},
    ],
)
def test_does_not_match(where: dict[str, Any]) -> None:
    assert not parse_filter(where)(PAYLOAD)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"year": {"above": 3}}, f"filter.year.above: unknown operator 'above' (valid: {', '.join(OPERATORS)})"),
    ({"year": {}}, f"filter.year: no operator (valid: {', '.join(OPERATORS)})"),
    ({"year": [1, 2]}, 'filter.year: to match one of several values write {"in": [...]}'),
    ({"year": {"in": 3}}, "filter.year.in: a list of values is needed, got 3"),
    ({"year": {"in": [[1]]}}, "filter.year.in: text, a number, true, false or null is needed, got [1]"),
    ({"year": {"gt": True}}, "filter.year.gt: a number or text is needed, got True"),
    ({"year": {"lt": None}}, "filter.year.lt: a number or text is needed, got None"),
    ({"year": {"exists": 1}}, "filter.year.exists: true or false is needed, got 1"),
    ({"and": {}}, "filter.and: a list of filters is needed, got {}"),
    ({"or": []}, "filter.or: a list of filters is needed, got []"),
    ({"or": [{"a": 1}, 2]}, "filter.or.1: an object {field: value} is needed, got 2"),
    ({"not": "x"}, "filter.not: an object {field: value} is needed, got 'x'"),
    ({"a..b": 1}, "filter.a..b: a field is a name or a path like 'author.name'"),
    ({"": 1}, "filter.: a field is a name or a path like 'author.name'"),
    ({"or": [{"year": {"gt": {}}}]}, "filter.or.0.year.gt: text, a number, true, false or null is needed, got {}"),
]


@pytest.mark.parametrize(("where", "message"), REFUSALS)
def test_refuses_what_is_no_filter(where: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse_filter(where)
    assert refused.value.message == message


def test_depth_is_bounded() -> None:
    where: dict[str, Any] = {"a": 1}
    for _ in range(MAX_DEPTH - 1):
        where = {"not": where}
    assert parse_filter(where)({"a": 1}) is bool(MAX_DEPTH % 2)
    with pytest.raises(InvalidArgumentError, match=f"nested deeper than {MAX_DEPTH} levels"):
        parse_filter({"not": where})


scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 0.5, 1.0]) | st.sampled_from("01a")
payloads = st.dictionaries(st.sampled_from("ab"), scalars | st.lists(scalars, max_size=3))


def same(one: Any, other: Any) -> bool:
    """Equality as JSON has it."""
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other)]
    return one == other if all(numbers) else type(one) is type(other) and one == other


@given(payloads, scalars, scalars)
def test_equality_agrees_with_json(payload: dict[str, Any], one: Any, other: Any) -> None:
    values = payload["a"] if isinstance(payload.get("a"), list) else [payload["a"]] if "a" in payload else []
    expected = any(same(value, one) for value in values)
    assert parse_filter({"a": one})(payload) is expected
    assert parse_filter({"a": {"ne": one}})(payload) is not expected
    either = expected or any(same(value, other) for value in values)
    assert parse_filter({"a": {"in": [one, other]}})(payload) is either
    assert parse_filter({"or": [{"a": one}, {"a": other}]})(payload) is either


@given(payloads, st.integers(-2, 2) | st.sampled_from("01a"))
def test_comparison_splits_the_values_of_its_kind(payload: dict[str, Any], bound: Any) -> None:
    def holds(operator: str) -> bool:
        return parse_filter({"a": {operator: bound}})(payload)

    assert holds("gte") == (holds("gt") or holds("eq"))
    assert holds("lte") == (holds("lt") or holds("eq"))
    found = payload.get("a")
    if isinstance(found, str) and isinstance(bound, str):
        assert holds("lt") == (found < bound)
    elif isinstance(found, int | float) and not isinstance(found, bool) and isinstance(bound, int):
        assert holds("gt") == (found > bound)
    elif not isinstance(found, list):
        assert not any(map(holds, ("gt", "gte", "lt", "lte")))
