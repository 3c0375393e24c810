"""Which point is in which slot of an index, and which slots are dead.

Slots are append-only, in the order of the points' keys: a replaced or removed point leaves a dead slot behind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
Mask = NDArray[np.bool_]

NEVER = int(np.iinfo(np.int64).max)  # the expiry of a point that is kept for ever


class Growing:
    """An array that is appended to in amortised constant time."""

    def __init__(self, dtype: Any, width: int | None = None) -> None:
        self._items: NDArray[Any] = np.empty(0 if width is None else (0, width), dtype)
        self._size = 0

    def extend(self, items: NDArray[Any]) -> None:
        end = self._size + len(items)
        if end > len(self._items):
            grown = np.empty((max(end, self._size * 5 // 4), *self._items.shape[1:]), self._items.dtype)
            grown[: self._size] = self.items
            self._items = grown
        self._items[self._size : end] = items
        self._size = end

    @property
    def items(self) -> NDArray[Any]:
        """A view of all, valid until the next `extend`."""
        return self._items[: self._size]

    @property
    def nbytes(self) -> int:
        return self._items.nbytes


class SlotTable:
    def __init__(self) -> None:
        self._keys = Growing(np.int64)
        self._expiries: Growing | None = None  # until a point has one
        self._alive = Growing(np.bool_)
        self._next_expiry = NEVER
        self.living = 0

    def __len__(self) -> int:
        return len(self._keys.items)

    @property
    def tombstones(self) -> int:
        return len(self) - self.living

    @property
    def keys(self) -> Slots:
        return self._keys.items

    @property
    def expiries(self) -> Slots:
        return np.full(len(self), NEVER) if self._expiries is None else self._expiries.items

    @property
    def alive(self) -> Mask:
        return self._alive.items

    @property
    def nbytes(self) -> int:
        expiries = 0 if self._expiries is None else self._expiries.nbytes
        return self._keys.nbytes + expiries + self._alive.nbytes

    def append(self, keys: Slots, expiries: Slots) -> None:
        """Ascending keys, greater than those that are there."""
        first_expiry = int(expiries.min(initial=NEVER))
        if self._expiries is None and first_expiry < NEVER:
            self._expiries = Growing(np.int64)
            self._expiries.extend(np.full(len(self), NEVER))
        if self._expiries is not None:
            self._expiries.extend(expiries)
        self._keys.extend(keys)
        self._alive.extend(np.ones(len(keys), np.bool_))
        self._next_expiry = min(self._next_expiry, first_expiry)
        self.living += len(keys)

    def remove(self, keys: Slots) -> None:
        """Bury those of the points that are here."""
        if len(self) and len(keys):
            slots = np.searchsorted(self.keys, keys).clip(max=len(self) - 1)
            self._bury(np.unique(slots[self.keys[slots] == keys]))

    def keep(self, keys: Slots) -> None:
        """Bury all other points."""
        self._bury(np.flatnonzero(~np.isin(self.keys, keys, assume_unique=True)))

    def expire(self, now: int) -> None:
        """Bury the points whose time is over."""
        if now >= self._next_expiry:
            self._bury(np.flatnonzero(self.alive & (self.expiries <= now)))
            self._next_expiry = int(self.expiries[self.alive].min(initial=NEVER))

    def _bury(self, slots: Slots) -> None:
        alive = self.alive
        self.living -= int(np.count_nonzero(alive[slots]))
        alive[slots] = False
