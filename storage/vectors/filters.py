"""The filter language: which payloads match.

    {"lang": "en", "year": {"gte": 2020, "lt": 2024}, "or": [{"tag": {"in": ["a", "b"]}}, {"not": {"draft": true}}]}

Everything in one object must hold. A field is a path: `author.name` goes into nested objects, and into the elements of
a list. A condition holds if any value found there fulfils it; `ne` holds if none is equal, so also where the field is
missing. Text, numbers, booleans and null are never equal to each other (1 is 1.0, but neither `true` nor `"1"`);
`gt gte lt lte` compare numbers with numbers and text with text, by code points, so ISO dates are in order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard, cast

from ..errors import InvalidArgumentError
from .base import Payload

Predicate = Callable[[Payload], bool]
_Check = Callable[[list[Any]], bool]  # on the values found at a path
Kinded = tuple[str, Any]

OPERATORS = ("eq", "ne", "in", "gt", "gte", "lt", "lte", "exists")
MAX_DEPTH = 16
ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def parse_filter(where: Mapping[str, Any]) -> Predicate:
    """Check a filter once and turn it into a predicate; the empty filter matches everything.

    Raises:
        InvalidArgumentError: the text names the wrong part and what would be valid there.
    """
    return _parse_object(where, "filter", 1)


def _parse_object(where: Any, at: str, depth: int) -> Predicate:
    if not is_object(where):
        raise InvalidArgumentError(f"{at}: an object {{field: value}} is needed, got {_shown(where)}")
    if depth > MAX_DEPTH:
        raise InvalidArgumentError(f"filter: nested deeper than {MAX_DEPTH} levels")
    parts = [_parse_part(key, value, f"{at}.{key}", depth) for key, value in where.items()]
    if len(parts) == 1:
        return parts[0]
    return lambda payload: all(part(payload) for part in parts)


def _parse_part(key: str, value: Any, at: str, depth: int) -> Predicate:
    match key:
        case "and" | "or":
            if not _is_list(value) or not value:
                raise InvalidArgumentError(f"{at}: a list of filters is needed, got {_shown(value)}")
            parts = [_parse_object(part, f"{at}.{number}", depth + 1) for number, part in enumerate(value)]
            combine = all if key == "and" else any
            return lambda payload: combine(part(payload) for part in parts)
        case "not":
            part = _parse_object(value, at, depth + 1)
            return lambda payload: not part(payload)
        case _:
            return _parse_field(key, value, at)


def _parse_field(field: str, condition: Any, at: str) -> Predicate:
    path = field.split(".")
    if not all(path):
        raise InvalidArgumentError(f"{at}: a field is a name or a path like 'author.name'")
    if is_object(condition):
        if not condition:
            raise InvalidArgumentError(f"{at}: no operator (valid: {', '.join(OPERATORS)})")
        checks = [_parse_operator(name, operand, f"{at}.{name}") for name, operand in condition.items()]
    elif _is_list(condition):
        raise InvalidArgumentError(f'{at}: to match one of several values write {{"in": [...]}}')
    else:
        checks = [_equals(condition, at)]

    def matches(payload: Payload) -> bool:
        values = list(values_at(payload, path))
        return all(check(values) for check in checks)

    return matches


def _parse_operator(name: str, operand: Any, at: str) -> _Check:
    match name:
        case "eq":
            return _equals(operand, at)
        case "ne":
            equals = _equals(operand, at)
            return lambda values: not equals(values)
        case "in":
            if not _is_list(operand):
                raise InvalidArgumentError(f"{at}: a list of values is needed, got {_shown(operand)}")
            wanted = frozenset(_scalar(item, at) for item in operand)
            return lambda values: any(kinded(value) in wanted for value in values)
        case "exists":
            if not isinstance(operand, bool):
                raise InvalidArgumentError(f"{at}: true or false is needed, got {_shown(operand)}")
            return lambda values: bool(values) == operand
        case "gt" | "gte" | "lt" | "lte":
            return _compares(ORDER[name], operand, at)
        case _:
            raise InvalidArgumentError(f"{at}: unknown operator '{name}' (valid: {', '.join(OPERATORS)})")


def _equals(operand: Any, at: str) -> _Check:
    wanted = _scalar(operand, at)
    return lambda values: any(kinded(value) == wanted for value in values)


def _compares(compare: Callable[[Any, Any], bool], operand: Any, at: str) -> _Check:
    kind, bound = _scalar(operand, at)
    if kind not in ("number", "text"):
        raise InvalidArgumentError(f"{at}: a number or text is needed, got {_shown(operand)}")

    def check(values: list[Any]) -> bool:
        return any(found == kind and compare(value, bound) for found, value in map(kinded, values))

    return check


def values_at(node: Any, path: Sequence[str]) -> Iterator[Any]:
    """All values at `path`; a list stands for itself and for each of its elements."""
    if path:
        if is_object(node):
            if path[0] in node:
                yield from values_at(node[path[0]], path[1:])
        elif _is_list(node):
            for item in node:
                yield from values_at(item, path)
    else:
        yield node
        if _is_list(node):
            yield from node


def kinded(value: Any) -> Kinded:
    """The value with its kind, so that Python's `True == 1` cannot confuse them."""
    if value is None or isinstance(value, bool):
        return "constant", str(value)
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, str):
        return "text", value
    return "nested", None


def _scalar(operand: Any, at: str) -> Kinded:
    value = kinded(operand)
    if value[0] == "nested":
        raise InvalidArgumentError(f"{at}: text, a number, true, false or null is needed, got {_shown(operand)}")
    return value


def is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _shown(value: Any) -> str:
    text = repr(cast("object", value))
    return text if len(text) <= 60 else text[:57] + "..."
