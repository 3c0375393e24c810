"""The optimizer's rules: when they hold, what they show for it, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quarterdeck.server.config import SettingsError, load_settings
from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.tools.queries.rules import FIELDS, SHIPPED, Rule, with_shipped

FACTS: dict[str, Any] = {
    "activeSeconds": 12.5,
    "tokens": 1200,
    "load": 1.5,
    "model": "medium",
    "permissionMode": "default",
    "agentType": "researcher",
    "budget": {"tokens": 1000},
    "metadata": {
        "kind": "draft",
        "deep": True,
        "size": 3,
        "due": "2026-11-22",
        "tags": ["a"],
        "by": {"name": "x"},
    },
}


def rule(*conditions: dict[str, Any], **changes: Any) -> Rule:
    return Rule.model_validate({"name": "r", "priority": 1, "when": [*conditions], "action": "pause", **changes})


def when(field: str, op: str, value: Any) -> dict[str, Any]:
    return {"field": field, "op": op, "value": value}


@pytest.mark.parametrize(
    ("condition", "figures"),
    [
        (when("activeSeconds", "gt", 12), "12.5 > 12"),
        (when("activeSeconds", "gt", 12.5), None),
        (when("activeSeconds", "gte", 12.5), "12.5 >= 12.5"),
        (when("activeSeconds", "lt", 12.5), None),
        (when("load", "lte", 2), "1.5 <= 2"),
        (when("tokens", "gt", {"field": "budget.tokens"}), "1200 > 1000"),
        (when("tokens", "gt", {"field": "budget.tokens", "default": 5000}), "1200 > 1000"),
        (when("activeSeconds", "gt", {"field": "budget.wallSeconds", "default": 10}), "12.5 > 10"),
        (when("activeSeconds", "gt", {"field": "budget.wallSeconds"}), None),
        (when("model", "ne", "large"), '"medium" != "large"'),
        (when("model", "in", ["small", "medium"]), '"medium" in ["small", "medium"]'),
        (when("permissionMode", "eq", "plan"), None),
        (when("agentType", "eq", "researcher"), '"researcher" = "researcher"'),
        (when("metadata.deep", "eq", True), "true = true"),
        (when("metadata.deep", "eq", 1), None),
        (when("metadata.size", "eq", 3.0), "3 = 3.0"),
        (when("metadata.size", "gt", "2"), None),
        (when("metadata.due", "lt", "2026-12-01"), '"2026-11-22" < "2026-12-01"'),
        (when("metadata.tags", "eq", "a"), '["a"] = "a"'),
        (when("metadata.by.name", "eq", "x"), '"x" = "x"'),
        (when("usd", "exists", False), "null exists false"),
        (when("usd", "exists", True), None),
        (when("usd", "lt", 5), None),  # unknown is not 0
        (when("usd", "ne", 5), None),
        (when("metadata.owner", "ne", "me"), None),
    ],
)
def test_a_condition_holds_on_what_is_known(condition: dict[str, Any], figures: str | None) -> None:
    assert rule(condition).evidence(FACTS) == (None if figures is None else {condition["field"]: figures})


def test_all_conditions_of_a_rule_must_hold_and_all_are_shown() -> None:
    both = rule(when("load", "gt", 1), when("load", "lt", 2), when("tokens", "gt", 0))
    assert both.evidence(FACTS) == {"load": "1.5 > 1, 1.5 < 2", "tokens": "1200 > 0"}
    assert rule(when("load", "gt", 1), when("load", "lt", 1)).evidence(FACTS) is None


def test_what_cannot_be_compared_is_an_error_that_names_it() -> None:
    compared = rule(when("metadata.size", "gt", {"field": "metadata.by"}))
    with pytest.raises(InvalidArgumentError, match=r"metadata\.size\.gt"):
        compared.evidence(FACTS)


def test_long_values_are_shown_in_part() -> None:
    shown = rule(when("metadata.text", "eq", "x" * 500)).evidence({"metadata": {"text": "x" * 500}})
    assert shown is not None
    assert len(shown["metadata.text"]) < 200


def test_the_shipped_rules_are_the_four_of_the_design() -> None:
    assert [(rule.name, rule.priority, rule.action, rule.model) for rule in SHIPPED] == [
        ("runaway-query-termination", 10, "terminate", None),
        ("token-budget-pause", 5, "pause", None),
        ("upgrade-to-opus", 3, "change_model", "large"),
        ("long-running-simple-query", 1, "change_model", "small"),
    ]


def test_a_rule_of_the_users_replaces_the_shipped_one_of_its_name_and_the_highest_comes_first() -> None:
    mine = [
        rule(when("tokens", "gt", 9), name="token-budget-pause", priority=7),
        rule(when("load", "gt", 4), priority=3),
    ]
    assert [(rule.name, rule.priority) for rule in with_shipped(mine)] == [
        ("runaway-query-termination", 10),
        ("token-budget-pause", 7),
        ("r", 3),  # at one priority, the user's own
        ("upgrade-to-opus", 3),
        ("long-running-simple-query", 1),
    ]


# --- in the TOML file


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deck.toml"
    monkeypatch.setenv("QUARTERDECK_CONFIG", str(path))
    return path


def as_toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + "}"  # pyright: ignore
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"  # pyright: ignore
        case _:
            return json.dumps(value)


def test_the_shipped_rules_can_be_written_in_the_file(toml: Path) -> None:
    written = [rule.model_dump(exclude_none=True) for rule in SHIPPED]
    toml.write_text(f"optimizer.rules = {as_toml(written)}\n")
    assert load_settings().optimizer.rules == SHIPPED


GOOD = 'name = "r"\npriority = 1\naction = "pause"\nwhen = [{ field = "tokens", op = "gt", value = 1 }]\n'


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "r"\n', "", ["rules.0.name: Field required"]),
        ('"r"', '"a b"', ["rules.0.name", "pattern"]),
        ("priority = 1", "priority = -1", ["rules.0.priority", "greater than or equal to 0"]),
        ("priority = 1", 'priority = "high"', ["rules.0.priority", "integer"]),
        (
            "priority = 1",
            "priority = 1\nweight = 2",
            ["rules.0: there is no key 'weight'", "valid: name, priority"],
        ),
        ('"pause"', '"resume"', ["rules.0.action", "'pause', 'terminate' or 'change_model'"]),
        ('"pause"', '"change_model"', ["rules.0: action change_model", "needs a model: small, medium, large"]),
        ('"pause"', '"pause"\nmodel = "small"', ["rules.0: action change_model, and no other, needs a model"]),
        ('[{ field = "tokens", op = "gt", value = 1 }]', "[]", ["rules.0.when", "at least 1"]),
        (
            '"tokens"',
            '"colour"',
            ["when.0.field: there is no field 'colour'", "activeSeconds, tokens"],
        ),
        ('"tokens"', '"metadata."', ["when.0.field: there is no field 'metadata.'", "metadata.NAME"]),
        ('"tokens"', '"budget.time"', ["when.0.field: there is no field 'budget.time'", "budget.wallSeconds"]),
        ('"gt"', '">"', ["rules.0.when.0.op", "'eq', 'ne', 'in', 'gt', 'gte', 'lt', 'lte' or 'exists'"]),
        ("value = 1", 'value = "many"', ["rules.0.when.0: tokens is a number", '"many"']),
        ("value = 1", "value = true", ["rules.0.when.0: tokens.gt: a number or text is needed, got True"]),
        ("value = 1", "value = nan", ["rules.0.when.0.value: a text, a number"]),
        ("value = 1", "value = 2026-11-22", ["rules.0.when.0.value: a text, a number"]),
        ("value = 1", "value = [1]", ["rules.0.when.0: tokens.gt"]),
        ("value = 1", 'value = { field = "cost" }', ["when.0.value.field: there is no field 'cost'", "usd"]),
        ("value = 1", 'value = { field = "model" }', ["rules.0.when.0: tokens and model cannot be compared"]),
        ("value = 1", 'value = { field = "usd", else = 3 }', ["no key 'else'", "valid: field, default"]),
        ("value = 1", 'value = { field = "usd", default = inf }', ["when.0.value.default: a text, a number"]),
        ('op = "gt", value = 1', 'op = "in", value = []', ["rules.0.when.0.value: a text, a number"]),
        ("value = 1", 'value = { field = "usd", default = "x" }', ["rules.0.when.0: tokens is a number"]),
        ('op = "gt", value = 1', 'op = "exists", value = 1', ["tokens.exists: true or false is needed"]),
        ('op = "gt", value = 1', 'op = "in", value = 1', ["tokens.in: a list of values is needed"]),
        ('op = "gt", value = 1', 'op = "in", value = { field = "usd" }', ["in takes no other field"]),
        (
            'field = "tokens", op = "gt"',
            'field = "model", op = "eq"',
            ["cannot be 1 (valid: small, medium, large)"],
        ),
        (
            'field = "tokens", op = "gt", value = 1',
            'field = "model", op = "gt", value = "small"',
            ["model has no order"],
        ),
        (
            'field = "tokens", op = "gt", value = 1',
            'field = "permissionMode", op = "in", value = ["default", "root"]',
            ["permissionMode cannot be", "valid: plan, default"],
        ),
        (GOOD, f"{GOOD}\n[[optimizer.rules]]\n{GOOD}", ["optimizer.rules: used twice: r"]),
    ],
)
def test_a_bad_rule_is_one_line_that_names_the_key_and_what_is_valid(
    toml: Path, old: str, new: str, words: list[str]
) -> None:
    assert old in GOOD
    toml.write_text("[[optimizer.rules]]\n" + GOOD.replace(old, new))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for word in words:
        assert word in caught.value.message
    assert "\n" not in caught.value.message
    assert "optimizer.rules" in caught.value.message


def test_the_variable_takes_the_rules_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = rule(when("load", "gt", 2))
    monkeypatch.setenv("QUARTERDECK_OPTIMIZER", json.dumps({"rules": [mine.model_dump(exclude_none=True)]}))
    assert load_settings().optimizer.rules == [mine]


# --- whatever is written

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3) | st.just("medium")
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner))
NAMES = st.sampled_from([*FIELDS, "metadata.a", "metadata.a.b", "metadata..", "and", ""]) | st.text(max_size=5)
VALUES = JSON | st.fixed_dictionaries({"field": NAMES}, optional={"default": SCALARS})
OPS = st.sampled_from(["eq", "ne", "in", "gt", "gte", "lt", "lte", "exists", "like"])
CONDITIONS = st.fixed_dictionaries({"field": NAMES, "op": OPS, "value": VALUES}) | JSON
TEXTS = st.fixed_dictionaries(
    {"name": st.sampled_from(["r", ""]), "priority": st.integers(-1, 2), "when": st.lists(CONDITIONS, max_size=3)},
    optional={"action": st.sampled_from(["pause", "terminate", "change_model"]), "model": SCALARS, "x": SCALARS},
)
ANY_FACTS = st.fixed_dictionaries(
    {}, optional={name.partition(".")[0]: JSON for name in FIELDS} | {"metadata": st.fixed_dictionaries({"a": JSON})}
)


@given(text=TEXTS | JSON, facts=ANY_FACTS)
def test_any_text_is_a_rule_or_refused_and_any_rule_holds_or_not(text: Any, facts: dict[str, Any]) -> None:
    try:
        parsed = Rule.model_validate(text)
    except ValidationError:
        return
    assert all(str(condition) for condition in parsed.when)
    try:
        evidence = parsed.evidence(facts)
    except InvalidArgumentError:
        return
    assert evidence is None or set(evidence) == {condition.field for condition in parsed.when}


@given(actual=st.floats() | st.integers(), bound=st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_compared_as_numbers(actual: float, bound: float) -> None:
    def holds(op: str) -> bool:
        return rule(when("tokens", op, bound)).evidence({"tokens": actual}) is not None

    if abs(bound) < 1 << 63:
        assert holds("gt") is (actual > bound)
        assert holds("lte") is (actual <= bound)
        assert holds("eq") is (actual == bound)
