"""Directed graphs: what can be reached from where, which nodes come first, and where they run in circles.

A graph maps each node to those that it points to. Iterative throughout: a chain may be longer than Python's stack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

Graph = Mapping[str, Iterable[str]]


def reverse(graph: Graph) -> dict[str, list[str]]:
    """The same nodes with every arrow turned round."""
    turned: dict[str, list[str]] = {node: [] for node in graph}
    for node, targets in graph.items():
        for target in targets:
            turned.setdefault(target, []).append(node)
    return turned


def paths(graph: Graph, start: str) -> dict[str, list[str]]:
    """Node -> a shortest path to it from `start`, both included; the nearest nodes first."""
    found = {start: [start]}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for target in graph.get(node, ()):
            if target not in found:
                found[target] = [*found[node], target]
                queue.append(target)
    return found


def components(graph: Graph) -> list[list[str]]:
    """The strongly connected components, each after all that it points to (R. Tarjan, SIAM J. Computing 1(2), 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    open_nodes: set[str] = set()
    found: list[list[str]] = []

    def enter(node: str) -> tuple[str, Iterator[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        open_nodes.add(node)
        return node, iter(graph.get(node, ()))

    for root in graph:
        walk = [enter(root)] if root not in index else []
        while walk:
            node, targets = walk[-1]
            for target in targets:
                if target not in index:
                    walk.append(enter(target))
                    break
                if target in open_nodes:
                    low[node] = min(low[node], index[target])
            else:
                walk.pop()
                if walk:
                    low[walk[-1][0]] = min(low[walk[-1][0]], low[node])
                if low[node] == index[node]:
                    component = [stack.pop()]
                    while component[-1] != node:
                        component.append(stack.pop())
                    open_nodes.difference_update(component)
                    found.append(component)
    return found


def cycle_through(graph: Graph, node: str) -> list[str] | None:
    """A shortest cycle that begins and ends at the node."""
    for path in paths(graph, node).values():  # the nearest first
        if node in graph.get(path[-1], ()):
            return [*path, node]
    return None


def cycles(graph: Graph) -> list[list[str]]:
    """For every component that runs in circles a shortest cycle through its least node."""
    found: list[list[str]] = []
    for component in components(graph):
        least = min(component)
        is_circle = len(component) > 1 or least in graph.get(least, ())
        if is_circle and (cycle := cycle_through(graph, least)):
            found.append(cycle)
    return sorted(found)
