"""What the memory benches store: values of 200 bytes of words, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

VALUE_BYTES = 200
TOPICS = 100
VOCABULARY = [f"word{number:04d}" for number in range(2000)]


class Entry(NamedTuple):
    key: str
    value: str


def entries(name: str) -> Iterator[Entry]:
    """Endless: keys `name-0`, `name-1`, …; a value has its key (some peers know no keys), a topic and other words."""
    generator = random.Random(name)
    number = 0
    while True:
        key = f"{name}-{number}"
        words = generator.choices(VOCABULARY, k=VALUE_BYTES // len(VOCABULARY[0]))
        yield Entry(key, " ".join([key, topic(name, number), *words])[:VALUE_BYTES])
        number += 1


def topic(name: str, number: int) -> str:
    """A word that every hundredth entry of that name has."""
    return f"{name}topic{number % TOPICS:02d}"
