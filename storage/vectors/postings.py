"""Payload fields in memory: which slots have which values at a path, so that a filter is a few operations on masks.

A field is taken in when a filter first asks for it: fields that nobody filters on cost nothing.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .base import Payload
from .filters import ORDER, Kinded, is_object, kinded, values_at
from .slots import Growing, Mask


class _Field:
    """Slots by value; numbers also as a column, for ranges."""

    def __init__(self, name: str) -> None:
        self._path = name.split(".")
        self._slots: dict[Kinded, array[int]] = {}
        self._numbers = Growing(np.float64)
        self._number_slots = Growing(np.int64)

    @property
    def nbytes(self) -> int:
        """About: the values' own objects are not counted."""
        lists = sum(map(sys.getsizeof, self._slots.values())) + sys.getsizeof(self._slots)
        return lists + self._numbers.nbytes + self._number_slots.nbytes

    def add(self, first_slot: int, payloads: Sequence[Payload]) -> None:
        numbers: list[float] = []
        number_slots: list[int] = []
        for slot, payload in enumerate(payloads, first_slot):
            for value in {kinded(value) for value in values_at(payload, self._path)}:
                self._slots.setdefault(value, array("q")).append(slot)
                if value[0] == "number":
                    numbers.append(_as_float(value[1]))
                    number_slots.append(slot)
        self._numbers.extend(np.array(numbers))
        self._number_slots.extend(np.array(number_slots, np.int64))

    def mask(self, condition: Any, size: int) -> Mask:
        if not is_object(condition):
            return self._having([kinded(condition)], size)
        mask = np.ones(size, np.bool_)
        for name, operand in condition.items():
            mask &= self._operator(name, operand, size)
        return mask

    def _operator(self, name: str, operand: Any, size: int) -> Mask:
        match name:
            case "eq":
                return self._having([kinded(operand)], size)
            case "ne":
                return ~self._having([kinded(operand)], size)
            case "in":
                return self._having(map(kinded, operand), size)
            case "exists":
                there = self._having(self._slots, size)
                return there if operand else ~there
            case _:
                return self._ordered(name, operand, size)

    def _having(self, values: Iterable[Kinded], size: int) -> Mask:
        mask = np.zeros(size, np.bool_)
        for value in values:
            if slots := self._slots.get(value):
                mask[np.frombuffer(slots, np.int64)] = True
        return mask

    def _ordered(self, name: str, operand: Any, size: int) -> Mask:
        compare = ORDER[name]
        kind, bound = kinded(operand)
        if kind == "number" and abs(bound) < MAX_EXACT:
            mask = np.zeros(size, np.bool_)
            mask[self._number_slots.items[compare(self._numbers.items, float(bound))]] = True
            return mask
        return self._having([value for value in self._slots if value[0] == kind and compare(value[1], bound)], size)


MAX_EXACT = 2**53  # above, neighbouring integers are one float


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of many digits
        return float("inf") if number > 0 else float("-inf")


class Postings:
    def __init__(self) -> None:
        self._fields: dict[str, _Field] = {}

    @property
    def fields(self) -> list[str]:
        return list(self._fields)

    @property
    def nbytes(self) -> int:
        return sum(field.nbytes for field in self._fields.values())

    def missing(self, where: Mapping[str, Any]) -> list[str]:
        """The fields of a filter that are not taken in."""
        return sorted(_fields_of(where) - self._fields.keys())

    def take_in(self, names: Iterable[str], chunks: Iterable[tuple[int, Sequence[Payload]]]) -> None:
        """Begin to keep these fields; `chunks` are all payloads there are, each with its first slot."""
        new = {name: _Field(name) for name in names}
        for first_slot, payloads in chunks:
            for field in new.values():
                field.add(first_slot, payloads)
        self._fields.update(new)

    def add(self, first_slot: int, payloads: Sequence[Payload]) -> None:
        for field in self._fields.values():
            field.add(first_slot, payloads)

    def mask(self, where: Mapping[str, Any], size: int) -> Mask:
        """The slots whose payload matches a valid filter, none of whose fields is missing."""
        mask = np.ones(size, np.bool_)
        for key, value in where.items():
            match key:
                case "and":
                    for part in value:
                        mask &= self.mask(part, size)
                case "or":
                    mask &= np.logical_or.reduce([self.mask(part, size) for part in value])
                case "not":
                    mask &= ~self.mask(value, size)
                case _:
                    mask &= self._fields[key].mask(value, size)
        return mask


def _fields_of(where: Mapping[str, Any]) -> set[str]:
    names = set[str]()
    for key, value in where.items():
        if key in ("and", "or"):
            names.update(*map(_fields_of, value))
        elif key == "not":
            names |= _fields_of(value)
        else:
            names.add(key)
    return names
