"""What a worker says, checked before anything is done with it (worker/protocol.py has the messages)."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

MAX_DEPTH = 100  # levels of lists and objects in a result; what is deeper cannot be kept
MAX_ERROR = 4_000  # characters of an error that are kept

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # escaped: as bytes it is no UTF-8
_LARGEST = sys.float_info.max


def decode(line: bytes) -> dict[str, Any]:
    """Read one message of a worker.

    Raises:
        ValueError: as `read`, or there is no text as `type`.
        RecursionError: as `read`.
    """
    message = read(line)
    take(message, "type", str)
    return message


def read(line: bytes) -> dict[str, Any]:
    """Read one line of JSON. A surrogate without its partner, which UTF-8 cannot carry, becomes `?`.

    Raises:
        ValueError: no UTF-8, no JSON, a number that JSON cannot say or a float cannot hold, or not an object.
        RecursionError: it is nested too deeply to be read.
    """
    text = line.decode()
    message = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    if _SURROGATE.search(text):
        message = json.loads(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace"))
    if not _is_object(message):
        raise ValueError("a line that is no object")
    return message


def take(message: Mapping[str, Any], name: str, wanted: type) -> Any:
    """The field of that name. Raises ValueError if it is missing or something else."""
    if name in message and isinstance(message[name], wanted):
        return message[name]
    raise ValueError(f"{message.get('type', 'a message')} without {'a valid ' if name in message else ''}'{name}'")


def controls(message: Mapping[str, Any]) -> list[str]:
    """What a worker that is ready can do beside the protocol's own: `hold`, `set_model`. Raises ValueError."""
    names: list[Any] = take(message, "controls", list) if "controls" in message else []
    if not all(isinstance(name, str) for name in names):
        raise ValueError("ready whose 'controls' is no list of texts")
    return names


def progress(message: Mapping[str, Any]) -> dict[str, Any]:
    """`{done, total, message}`: finite numbers, a text; None is what was left out. Raises ValueError."""
    report = {name: message.get(name) for name in ("done", "total", "message")}
    for name in ("done", "total"):
        if report[name] is not None and not _is_number(report[name]):
            raise ValueError(f"progress whose '{name}' is no number")
    if report["message"] is not None:
        take(message, "message", str)
    return report


def usage(message: Mapping[str, Any]) -> dict[str, float]:
    """`{tokens, usd}`, as far as they are told: finite numbers from 0 on. Raises ValueError."""
    amounts = {name: amount for name in ("tokens", "usd") if (amount := message.get(name)) is not None}
    for name, amount in amounts.items():
        if not _is_number(amount) or amount < 0:
            raise ValueError(f"usage whose '{name}' is no number from 0 on")
    return {name: float(amount) for name, amount in amounts.items()}


def is_too_deep(value: Any) -> bool:
    """Whether it is nested deeper than MAX_DEPTH."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [part for part in level if _has_parts(part)]
        if not inner:
            return False
        level = [child for part in inner for child in (part.values() if _is_object(part) else part)]
    return True


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _has_parts(value: Any) -> TypeGuard[dict[str, Any] | list[Any]]:
    return isinstance(value, (dict, list))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _refuse(name: str) -> float:
    raise ValueError(f"{name}, which JSON cannot say")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits[:40]}, which no float can hold")
    return number
