"""The filter language on Qdrant, whose own conditions compare differently.

Each point carries `terms`, a keyword for every field of its payload and for every value there, and `numbers`, the
numbers by field. A filter becomes conditions on these two, so that nested fields, lists, null and `1 = 1.0` mean what
they mean in `filters.py`. What cannot be said so (the order of texts, numbers beyond 2^53) is left out or widened: then
Qdrant finds more than matches, and the caller sorts that out with the predicate of `parse_filter`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, cast

from qdrant_client import models

from .base import Payload

TERMS, NUMBERS = "terms", "numbers"

EXACT_NUMBERS = 1 << 53  # below it, a double is the number itself
LONGEST_VALUE = 64  # characters of a text that stands in a term; of a longer one its hash does
_LARGEST = 1.7976931348623157e308
_QUOTABLE = re.compile(r'[^"\\\ud800-\udfff]+')  # what a quoted path of Qdrant can hold

_encode = json.JSONEncoder(separators=(",", ":")).encode  # in ASCII: an operand may hold lone surrogates


class Translation(NamedTuple):
    """`condition` None: every point. Not `is_exact`: it also finds points that do not match."""

    condition: models.Condition | None
    is_exact: bool


_EVERYTHING = Translation(None, is_exact=True)
_UNKNOWN = Translation(None, is_exact=False)
_NOTHING = Translation(models.HasIdCondition(has_id=[]), is_exact=True)


def index_fields(payload: Payload) -> dict[str, Any]:
    """What a point carries beside its payload so that filters find it."""
    terms = dict[str, None]()  # in order, each once
    numbers: dict[str, list[float]] = {}
    for path, value in _fields(payload, ""):
        terms[_encode([path])] = None
        for found in [value, *_elements(value)]:
            if (term := _term(path, found)) is None:
                continue
            terms[term] = None
            if _is_number(found):
                numbers.setdefault(path, []).append(_double(found))
    return {TERMS: list(terms), NUMBERS: numbers}


def _fields(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every field in `node`, of objects in lists too, by the path that a filter would name."""
    if isinstance(node, Mapping):
        for key, value in cast("Mapping[str, Any]", node).items():
            if key and "." not in key:  # a filter cannot name another
                below = f"{path}.{key}" if path else key
                yield below, value
                yield from _fields(value, below)
    else:
        for item in _elements(node):
            yield from _fields(item, path)


def _elements(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else ()


def _term(path: str, value: Any) -> str | None:
    """The keyword for a value; None for lists and objects, which equal nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        if len(value) > LONGEST_VALUE:
            digest = blake2b(value.encode(errors="surrogatepass"), digest_size=16).hexdigest()
            return _encode([path, "hash", digest])
        return _encode([path, value])
    return _encode([path, value]) if value is None or isinstance(value, int | float) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return _LARGEST if number > 0 else -_LARGEST


def translate(where: Mapping[str, Any]) -> Translation:
    """A filter that `parse_filter` takes, as a condition on `terms` and `numbers`."""
    return _all([_part(key, value) for key, value in where.items()])


def _part(key: str, value: Any) -> Translation:
    match key:
        case "and":
            return _all([translate(part) for part in value])
        case "or":
            return _any([translate(part) for part in value])
        case "not":
            return _not(translate(value))
        case _ if isinstance(value, Mapping):
            conditions = cast("Mapping[str, Any]", value)
            return _all([_operation(key, name, operand) for name, operand in conditions.items()])
        case _:
            return _has_any([_term(key, value)])


def _operation(path: str, name: str, operand: Any) -> Translation:
    match name:
        case "eq":
            return _has_any([_term(path, operand)])
        case "ne":
            return _not(_has_any([_term(path, operand)]))
        case "in":
            return _has_any([_term(path, item) for item in operand])
        case "exists":
            there = _has_any([_encode([path])])
            return there if operand else _not(there)
        case _:
            return _compares(path, name, operand)


def _has_any(terms: Sequence[str | None]) -> Translation:
    if not terms:
        return _NOTHING
    wanted = models.MatchAny(any=[term for term in terms if term is not None])
    return Translation(models.FieldCondition(key=TERMS, match=wanted), is_exact=True)


def _compares(path: str, name: str, bound: Any) -> Translation:
    if not (_is_number(bound) and abs(bound) < EXACT_NUMBERS and _QUOTABLE.fullmatch(path)):
        return _UNKNOWN
    bounds = models.Range(**{name: bound})
    return Translation(models.FieldCondition(key=f'{NUMBERS}."{path}"', range=bounds), is_exact=True)


def _all(parts: Sequence[Translation]) -> Translation:
    conditions = [part.condition for part in parts if part.condition is not None]
    is_exact = all(part.is_exact for part in parts)
    if len(conditions) == 1:
        return Translation(conditions[0], is_exact)
    return Translation(models.Filter(must=conditions) if conditions else None, is_exact)


def _any(parts: Sequence[Translation]) -> Translation:
    conditions = [part.condition for part in parts if part.condition is not None]
    if len(conditions) < len(parts):  # one of them lets everything through
        return _EVERYTHING if _EVERYTHING in parts else _UNKNOWN
    return Translation(models.Filter(should=conditions), all(part.is_exact for part in parts))


def _not(part: Translation) -> Translation:
    if not part.is_exact:
        return _UNKNOWN
    return _NOTHING if part.condition is None else Translation(models.Filter(must_not=[part.condition]), is_exact=True)
