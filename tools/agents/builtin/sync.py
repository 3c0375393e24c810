"""The synchroniser: two stores made equal, whichever side changed, with no change lost unseen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..worker.task import PromptError, Task
from .baseline import NAMESPACE, Baseline, Common
from .entries import deck_time
from .stores import Record, State, Store, canonical, open_store, shape_of
from .words import shorten

PREVIEW = 200  # characters of a disputed content in the report
SIDES = ("left", "right")

States = dict[str, State]


class Verdict(NamedTuple):
    """Which side (0 left, 1 right) is to be followed for a key, None neither; disputed: both have changed it."""

    winner: int | None
    disputed: bool = False


def judge(common: Common | None, states: tuple[State | None, State | None], lapsed: int | None, rule: str) -> Verdict:
    """Compare both sides of a key, None where it is absent, with what they had in common.

    A change of one side wins; the side `lapsed` is absent because its copy has expired, which is no change. Where both
    have changed it, differently, `rule` decides: left, right, newer or report (neither wins). A deletion has no time:
    under newer the side that has a content wins, and neither where both have the same time.
    """
    before = common.digest if common else None
    left, right = (state.digest if state else None for state in states)
    if left == right:
        return Verdict(None)
    if lapsed is not None:
        return Verdict(1 - lapsed)
    if left == before:
        return Verdict(1)
    if right == before:
        return Verdict(0)
    if rule == "newer":
        times = [state.updated or "" if state else "" for state in states]
        return Verdict(None if times[0] == times[1] else times.index(max(times)), disputed=True)
    return Verdict(SIDES.index(rule) if rule in SIDES else None, disputed=True)


def bidirectional_sync(task: Task) -> dict[str, Any]:
    """Make two stores equal: memory namespaces by key, or with `kind` vectors collections by id. `sync:NAME` is the
    collection NAME of the store that QUARTERDECK_SYNC_URL names, for instance a Qdrant server.

    What both had at the last synchronisation is remembered, so a change of one side, a deletion too, is carried over,
    and different changes of both are a conflict, settled by `rule` (newer, for vectors, which have no times, report,
    unless told otherwise) and always reported. What somebody changes while it is copied is `postponed` to the next
    run. Contents are compared, not lifetimes: a copy gets what the original has left, and what has expired on one side
    only is filled again.

    Returns `{left, right, equal, copied: {left, right}, deleted: {left, right}, conflicts: [{key, left, right, kept}],
    postponed: [key]}`; `copied` and `deleted` count by the side that was changed. A conflict's sides are `{updated,
    content}`, cut to 200 characters, or null where it was deleted; `kept` is the side that was followed, or null for
    neither: then both stay as they are.
    """
    names = [task.prompt[side] for side in SIDES]
    kind = task.prompt.get("kind", "memory")
    rule = task.prompt.get("rule", "report" if kind == "vectors" else "newer")
    if names[0] == names[1]:
        raise PromptError(f"bidirectional_sync: left and right are both {names[0]!r}; name two")
    if (kind, rule) == ("vectors", "newer"):
        raise PromptError("bidirectional_sync: points have no times; rule is one of left | right | report for vectors")
    baseline = Baseline(task, kind, names)
    stores = _open(task, kind, names, is_first=not baseline.common)
    states = [_read(task, number, store) for number, store in enumerate(stores)]
    verdicts = _compare(baseline.common, states, names, deck_time(task), rule)
    conflicts = _describe(stores, states, verdicts)

    moves = {key: verdict.winner for key, verdict in verdicts.items() if verdict.winner is not None}
    for key in moves:  # should this run be cut off, they are new to the next one: perhaps a conflict, never a loss
        baseline.put(key, None)
    baseline.save()
    done: dict[str, Common | None] = {}
    counts: dict[str, dict[str, int]] = {"copied": {}, "deleted": {}}
    for target, (side, store) in enumerate(zip(SIDES, stores, strict=True)):
        task.progress(2 + target, 4, f"writing {store.name}")
        source = 1 - target
        keys = [key for key, winner in moves.items() if winner == source]
        copied = dict(_copy(stores[source], store, keys, states[source], states[target]))
        gone = ((key, states[target][key]) for key in keys if key not in states[source])
        deleted = dict.fromkeys(store.remove(gone))
        counts["copied"][side], counts["deleted"][side] = len(copied), len(deleted)
        done |= copied | deleted
    for key, verdict in verdicts.items():
        if key in moves:
            baseline.put(key, done.get(key, baseline.common.get(key)))
        elif not verdict.disputed:
            baseline.put(key, _common(names, states, key))
    baseline.save()
    task.progress(4, 4, "done")
    return {
        **dict(zip(SIDES, names, strict=True)),
        "equal": sum(key in states[0] and verdict == Verdict(None) for key, verdict in verdicts.items()),
        **counts,
        "conflicts": conflicts,
        "postponed": sorted(moves.keys() - done.keys()),
    }


def _open(task: Task, kind: str, names: list[str], *, is_first: bool) -> list[Store]:
    if kind == "memory":
        if NAMESPACE in names:
            raise PromptError(f"bidirectional_sync keeps its own records in {NAMESPACE!r}; name other namespaces")
        return [open_store(task, kind, name) for name in names]
    there = [name for name in names if shape_of(task, name)]
    if not there:
        raise PromptError(f"there is no collection {names[0]!r} and no {names[1]!r}: create one of them")
    if len(there) == 1 and not is_first:  # dropped by mistake, it must not take the other one with it
        raise PromptError(
            f"of two collections that were synchronised only {there[0]!r} is left; "
            f"create the other, empty, to have the points of {there[0]!r} deleted too, or give another name"
        )
    shape = open_store(task, kind, there[0]).shape
    return [open_store(task, kind, name, shape) for name in names]


def _read(task: Task, number: int, store: Store) -> States:
    task.progress(number, 4, f"reading {store.name}")
    return {record.key: record.state for record in store.records()}


def _compare(
    common: dict[str, Common], states: list[States], names: list[str], now: str, rule: str
) -> dict[str, Verdict]:
    verdicts: dict[str, Verdict] = {}
    for key in sorted({*common, *states[0], *states[1]}):
        known = common.get(key)
        gone = [side for side in (0, 1) if key not in states[side]]
        lapsed = next((side for side in gone if known and known.has_lapsed(names[side], now)), None)
        verdicts[key] = judge(known, (states[0].get(key), states[1].get(key)), lapsed, rule)
    return verdicts


def _describe(stores: list[Store], states: list[States], verdicts: dict[str, Verdict]) -> list[dict[str, Any]]:
    """The conflicts as the report shows them, read before anything is changed."""
    disputed = [key for key, verdict in verdicts.items() if verdict.disputed]
    shown: list[dict[str, Any]] = []
    for store, known in zip(stores, states, strict=True):
        contents = {record.key: shorten(canonical(record.content), PREVIEW) for record in store.fetch(disputed)}
        shown.append(
            {key: {"updated": known[key].updated, "content": contents.get(key)} for key in disputed if key in known}
        )
    return [
        {
            "key": key,
            **{side: contents.get(key) for side, contents in zip(SIDES, shown, strict=True)},
            "kept": None if (winner := verdicts[key].winner) is None else SIDES[winner],
        }
        for key in disputed
    ]


def _copy(
    source: Store, target: Store, keys: Iterable[str], known: States, seen: States
) -> Iterator[tuple[str, Common]]:
    """Copy what is still as it was judged, on both sides; yields what they have in common now."""
    fresh: dict[str, State] = {}

    def unchanged() -> Iterator[tuple[Record, State | None]]:
        for record in source.fetch(key for key in keys if key in known):
            if record.state.digest == known[record.key].digest:
                fresh[record.key] = record.state
                yield record, seen.get(record.key)

    for key in target.write(unchanged()):
        state = fresh.pop(key)
        yield key, Common(state.digest, dict.fromkeys((source.name, target.name), state.expires))


def _common(names: list[str], states: list[States], key: str) -> Common | None:
    """What both have of a key that they agree on."""
    if key not in states[0]:
        return None
    return Common(states[0][key].digest, {name: side[key].expires for name, side in zip(names, states, strict=True)})
