"""Memory against other memory servers, each with 1,000 entries in store, through hand-made JSON lines.

The peers speak the handshake era only. Ours is measured in the modern era, which costs more, and its stores in both.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from .entries import Entry, entries, topic
from .measure import Figure, latency, rate
from .peers import PEERS, MemoryServer, PeerUnavailableError, quarterdeck
from .raw_client import Era, RawClient, ServerFailedError

FILLED = 1000
FILL_LIMIT = 120.0  # seconds
BLOCKS = 11  # the first warms up
BLOCK = 50  # calls
IN_FLIGHT = 16
CLAUDE_FLOW = "claude-flow"
RATE = "stores in flight"
CLAUDE_FLOW_TARGETS = {"store": 6.0, RATE: 5.0}  # its store is a synchronous write without an SDK around it
AHEAD = {"store": 1.0, RATE: 1.0, "retrieve": 1.0, "list": 1.0, "search": 1.0, "delete": 1.0}

Blocks = Sequence[Sequence[Entry]]


def measure(folder: Path) -> list[Figure]:
    """The figures against every peer that can be had here; what cannot is named on stderr."""
    figures: list[Figure] = []
    for name, install in PEERS.items():
        try:
            peer = install()
            if name == CLAUDE_FLOW:
                figures += _against(peer, "legacy", CLAUDE_FLOW_TARGETS, folder / "legacy", only_stores=True)
                figures += _against(peer, "modern", CLAUDE_FLOW_TARGETS, folder / "modern")
                figures.append(asyncio.run(_through_sdk(peer, folder / "sdk")))
            else:
                figures += _against(peer, "modern", AHEAD, folder / name)
        except PeerUnavailableError as exc:
            print(f"skipped {name}: {exc}", file=sys.stderr)
    return figures


@dataclass(frozen=True, slots=True)
class _Side:
    """One server at work."""

    server: MemoryServer
    client: RawClient

    def latency(self, action: str, block: Sequence[Entry]) -> float:
        """Median seconds of the calls, made one after the other."""
        tool, arguments = self.server.calls[action]
        return statistics.median(self.client.latencies(tool, map(arguments, block)))

    def rate(self, block: Sequence[Entry]) -> float:
        """Stores a second with many in flight."""
        tool, arguments = self.server.calls["store"]
        return self.client.throughput(tool, map(arguments, block), IN_FLIGHT)


def _against(
    peer: MemoryServer, era: Era, targets: Mapping[str, float], folder: Path, *, only_stores: bool = False
) -> Iterator[Figure]:
    """Raises PeerUnavailableError: it does not start, or does not keep what it was given."""
    deck = quarterdeck()
    stored, more = _blocks(entries(era)), _blocks(entries(f"{era}-more"))
    words = _blocks(Entry(topic("filled", number), "") for number in range(BLOCKS * BLOCK))
    with ExitStack() as stack:
        ours = stack.enter_context(_filled(deck, era, folder / "ours"))
        try:
            theirs = stack.enter_context(_filled(peer, "legacy", folder / "theirs"))
        except ServerFailedError as exc:
            raise PeerUnavailableError(str(exc)) from exc

        def compare(action: str, blocks: Blocks) -> Figure:
            seconds = _in_turns(
                blocks, lambda block: ours.latency(action, block), lambda block: theirs.latency(action, block)
            )
            return latency(f"{action} p50, {era}", *seconds, peer.shown(action), targets.get(action))

        yield compare("store", stored)
        rates = _in_turns(more, ours.rate, theirs.rate)
        yield rate(f"store with {IN_FLIGHT} in flight, {era}", *rates, peer.shown("store"), targets.get(RATE))
        made = FILLED + 2 * BLOCKS * BLOCK
        assert deck.kept(folder / "ours") == made
        if (kept := peer.kept(folder / "theirs")) != made:
            print(f"{peer.name} has {kept} of {made} entries: it lost stores in flight", file=sys.stderr)
        if not only_stores:
            yield compare("retrieve", stored)
            yield compare("list", stored)
            yield compare("search", words)
            yield compare("delete", stored)


def _blocks(source: Iterator[Entry]) -> Blocks:
    return [list(islice(source, BLOCK)) for _ in range(BLOCKS)]


def _in_turns(
    blocks: Blocks, ours: Callable[[Sequence[Entry]], float], theirs: Callable[[Sequence[Entry]], float]
) -> tuple[list[float], list[float]]:
    """What each measures, block by block; the first warms up."""
    pairs = [(ours(block), theirs(block)) for block in blocks][1:]
    return [our for our, _ in pairs], [their for _, their in pairs]


@contextmanager
def _filled(server: MemoryServer, era: Era, folder: Path) -> Generator[_Side]:
    """Start it in a new folder and store the first entries.

    Raises:
        ServerFailedError: it does not start, or what it was given is not on disk.
    """
    folder.mkdir(parents=True)
    with server.start(era, folder) as client:
        side = _Side(server, client)
        with client.time_limit(FILL_LIMIT):
            side.latency("store", list(islice(entries("filled"), FILLED)))
        if (kept := server.kept(folder)) != FILLED:
            raise ServerFailedError(f"{server.name} has {kept} of {FILLED} entries on disk")
        yield side


async def _through_sdk(peer: MemoryServer, folder: Path) -> Figure:
    """The same store by the SDK's own client, which takes longer than the servers."""
    logging.getLogger("mcp.client.stdio").setLevel(logging.CRITICAL)  # claude-flow answers what asks no answer
    async with _sdk_client(quarterdeck(), folder / "ours") as ours, _sdk_client(peer, folder / "theirs") as theirs:
        pairs = [(await ours(block), await theirs(block)) for block in _blocks(entries("sdk"))][1:]
    seconds = [our for our, _ in pairs], [their for _, their in pairs]
    return latency("store p50 through the SDK's Python client, legacy", *seconds, peer.shown("store"), None)


@asynccontextmanager
async def _sdk_client(
    server: MemoryServer, folder: Path
) -> AsyncGenerator[Callable[[Sequence[Entry]], Awaitable[float]]]:
    """What stores a block and returns the median seconds of a call."""
    folder.mkdir(parents=True)
    command, *arguments = map(str, server.command)
    parameters = StdioServerParameters(
        command=command, args=arguments, env=dict(server.environment(folder)), cwd=folder
    )
    tool, arguments_of = server.calls["store"]
    with (folder / "stderr").open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors), mode="legacy") as client:

            async def store(block: Sequence[Entry]) -> float:
                seconds: list[float] = []
                for entry in block:
                    call = dict(arguments_of(entry))
                    began = perf_counter()
                    result = await client.call_tool(tool, call)
                    seconds.append(perf_counter() - began)
                    assert not result.is_error
                return statistics.median(seconds)

            yield store
