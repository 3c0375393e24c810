"""The optimizer's rules: data, of the same shape when shipped and in `[[optimizer.rules]]` of the TOML file.

A rule holds if all of its conditions do. A condition is one of the filter language (storage/vectors/filters.py) over
what is known of a running query; on what is unknown, none but `exists` holds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from quarterdeck.storage.errors import InvalidArgumentError
from quarterdeck.storage.vectors.filters import parse_filter

from ..agents.budget import KINDS
from ..agents.models import SIZES
from ..agents.rights import MODES

Facts = Mapping[str, Any]
"""What is known of a running query, nested as JSON: `{"tokens": 10, "budget": {"tokens": 100}}`."""

CHOICES: Mapping[str, Sequence[str]] = {"model": SIZES, "permissionMode": MODES}
FIELDS: Mapping[str, str] = {
    "activeSeconds": "seconds of work so far, pauses left out",
    "tokens": "tokens used so far, as the agent reports them",
    "usd": "US dollars used so far, as the agent reports them",
    "load": "running queries of this server, divided by the machine's cores",
    "model": f"size of the query's model: {', '.join(SIZES)}",
    "permissionMode": ", ".join(MODES),
    "agentType": "type of its agent",
    **{f"budget.{kind}": "limit of the query's own budget" for kind in KINDS},
    "metadata.NAME": "metadata of query_start; NAME may be a path",
}
"""The fields of conditions, and what they are."""

SYMBOLS = {"eq": "=", "ne": "!=", "in": "in", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "exists": "exists"}
ORDER = ("gt", "gte", "lt", "lte")
MAX_NUMBER = 1 << 63  # TOML's integers; also refuses its inf and nan
MAX_SHOWN = 80  # characters of a value in evidence

Scalar = str | int | float | bool


def value_of(facts: Facts, field: str) -> Any:
    """What is known at the path; None is unknown."""
    node: Any = facts
    for name in field.split("."):
        node = cast("Mapping[str, Any]", node).get(name) if isinstance(node, Mapping) else None
    return node


def _kind(field: str) -> str:
    if field.startswith("metadata."):
        return "any"
    return field if field in (*CHOICES, "agentType") else "number"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


class _Table(BaseModel):
    """A table of the TOML file; it says which keys it has."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, table: Any) -> Any:
        if isinstance(table, dict):
            unknown = [key for key in cast("dict[str, Any]", table) if key not in cls.model_fields]
            if unknown:
                raise ValueError(f"there is no key {unknown[0]!r} (valid: {', '.join(cls.model_fields)})")
        return cast("object", table)


def _known_field(name: str) -> str:
    if name in FIELDS or (name.startswith("metadata.") and all(name.split("."))):
        return name
    raise ValueError(f"there is no field {name!r} (valid: {', '.join(FIELDS)})")


FieldName = Annotated[str, AfterValidator(_known_field)]


def _scalar(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, int | float) and abs(value) < MAX_NUMBER):
        return value
    raise ValueError('a text, a number, true or false is needed, a list of these, or {field = "…", default = …}')


class Reference(_Table):
    """Another field to compare with, or `default` where that one is unknown."""

    field: FieldName
    default: Annotated[Scalar, BeforeValidator(_scalar)] | None = None

    def __str__(self) -> str:
        return self.field if self.default is None else f"{self.field}, else {_shown(self.default)}"


def _operand(value: Any) -> Any:
    """An operand as it is written; Reference checks its own table."""
    if isinstance(value, dict | Reference):
        return Reference.model_validate(value)
    for item in cast("list[Any]", value or [None]) if isinstance(value, list) else [value]:
        _scalar(item)
    return cast("object", value)


class Condition(_Table):
    """One comparison of a field with a value or with another field."""

    field: FieldName
    op: Literal["eq", "ne", "in", "gt", "gte", "lt", "lte", "exists"]
    value: Annotated[Reference | list[Scalar] | Scalar, BeforeValidator(_operand)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Raises ValueError for what could never hold."""
        other = self.value if isinstance(self.value, Reference) else None
        if other is not None:
            if self.op in ("in", "exists"):
                raise ValueError(f"{self.op} takes no other field as its value")
            kinds = {_kind(self.field), _kind(other.field)}
            if len(kinds) > 1 and "any" not in kinds:
                raise ValueError(f"{self.field} and {other.field} cannot be compared")
        value = self.value if not isinstance(self.value, Reference) else self.value.default
        if value is not None:
            try:
                parse_filter({self.field: {self.op: value}})
            except InvalidArgumentError as exc:
                raise ValueError(exc.message.removeprefix("filter.")) from None
        if self.op != "exists":
            self._check_kind(value)
        return self

    def _check_kind(self, operand: Scalar | list[Scalar] | None) -> None:
        kind = _kind(self.field)
        values = operand if isinstance(operand, list) else [] if operand is None else [operand]
        if kind == "number":
            if any(isinstance(value, str | bool) for value in values):
                raise ValueError(f"{self.field} is a number, which {_shown(operand)} is not")
        elif kind != "any":
            if self.op in ORDER:
                raise ValueError(f"{self.field} has no order (valid operators: eq, ne, in, exists)")
            valid = CHOICES.get(kind)
            if any(not isinstance(value, str) or (valid and value not in valid) for value in values):
                raise ValueError(f"{self.field} cannot be {_shown(operand)} (valid: {', '.join(valid or ['a text'])})")

    def __str__(self) -> str:
        if self.op == "exists":
            return f"{self.field} is {'' if self.value else 'un'}known"
        value = self.value if isinstance(self.value, Reference) else _shown(self.value)
        return f"{self.field} {SYMBOLS[self.op]} {value}"

    def figures(self, facts: Facts) -> str | None:
        """The values that fulfil it, such as `1200 > 1000`; None if they do not.

        Raises:
            InvalidArgumentError: the other field has a value that cannot be compared so.
        """
        operand: Any = self.value
        if isinstance(operand, Reference):
            other = value_of(facts, operand.field)
            operand = operand.default if other is None else other
            if operand is None:
                return None
        known = {} if self.op == "exists" else {"exists": True}  # else `ne` would hold on what is unknown
        if not parse_filter({self.field: {self.op: operand, **known}})(facts):
            return None
        return f"{_shown(value_of(facts, self.field))} {SYMBOLS[self.op]} {_shown(operand)}"


class Rule(_Table):
    """What to do with a running query on which all conditions hold; of several rules the highest `priority` acts."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    priority: int = Field(ge=0, le=1000)
    when: list[Condition] = Field(min_length=1, max_length=20)
    action: Literal["pause", "terminate", "change_model"]
    model: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _model_is_for_change_model(self) -> Self:
        if (self.action == "change_model") is not (self.model is not None):
            raise ValueError("action change_model, and no other, needs a model: small, medium, large or a name")
        return self

    def evidence(self, facts: Facts) -> dict[str, str] | None:
        """Field -> the figures that fulfil its conditions; None unless all hold. Raises as `Condition.figures`."""
        found: dict[str, str] = {}
        for condition in self.when:
            figures = condition.figures(facts)
            if figures is None:
                return None
            earlier = found.get(condition.field)
            found[condition.field] = figures if earlier is None else f"{earlier}, {figures}"
        return found


def _each_name_once(rules: list[Rule]) -> list[Rule]:
    names = Counter(rule.name for rule in rules)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"used twice: {', '.join(twice)}; each rule needs a name of its own")
    return rules


Rules = Annotated[list[Rule], AfterValidator(_each_name_once)]

SHIPPED: Sequence[Rule] = TypeAdapter(Rules).validate_python(
    [
        {
            "name": "runaway-query-termination",
            "priority": 10,
            "when": [{"field": "activeSeconds", "op": "gt", "value": {"field": "budget.wallSeconds", "default": 300}}],
            "action": "terminate",
        },
        {
            "name": "token-budget-pause",
            "priority": 5,
            "when": [{"field": "tokens", "op": "gt", "value": {"field": "budget.tokens"}}],
            "action": "pause",
        },
        {
            "name": "upgrade-to-opus",
            "priority": 3,
            "when": [
                {"field": "model", "op": "ne", "value": "large"},
                {"field": "metadata.complexity", "op": "eq", "value": "high"},
                {"field": "metadata.requiresDeepReasoning", "op": "eq", "value": True},
            ],
            "action": "change_model",
            "model": "large",
        },
        {
            "name": "long-running-simple-query",
            "priority": 1,
            "when": [
                {"field": "model", "op": "eq", "value": "medium"},
                {"field": "activeSeconds", "op": "gt", "value": 30},
                {"field": "metadata.complexity", "op": "eq", "value": "simple"},
            ],
            "action": "change_model",
            "model": "small",
        },
    ]
)


def with_shipped(rules: Sequence[Rule]) -> Sequence[Rule]:
    """`rules` and those shipped ones whose names they do not take, the highest priority first."""
    names = {rule.name for rule in rules}
    return sorted([*rules, *(rule for rule in SHIPPED if rule.name not in names)], key=lambda rule: -rule.priority)
