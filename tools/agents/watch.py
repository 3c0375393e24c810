"""Watching a live agent: a worker that dies is started anew where its type says so; a busy one is measured."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable

from quarterdeck.storage.clock import Clock
from quarterdeck.storage.errors import DeckError

from .live import LiveAgent, LiveAgents
from .runners.base import AgentDiedError, AgentHandle
from .tracker import Tracker

MAX_RESTARTS = 3
RESTART_PERIOD = 60.0  # seconds in which an agent is restarted so often and no more
METRICS_EVERY = 15.0  # seconds between two measurements of a working agent


class Watch:
    """Watches the agents of this server."""

    def __init__(
        self, agents: LiveAgents, start: Callable[[LiveAgent], Awaitable[AgentHandle]], tracker: Tracker, clock: Clock
    ) -> None:
        """`start` starts the worker of an agent anew; it raises what `Runner.start` raises."""
        self._agents = agents
        self._start = start
        self._tracker = tracker
        self._clock = clock
        self._restarts: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MAX_RESTARTS))

    async def until_the_end(self, live: LiveAgent) -> None:
        """Wait for the end of the agent, past the restarts of its worker, and write it."""
        reason = await live.handle.wait()
        while await self._restart(live, reason):
            reason = await live.handle.wait()
        self._restarts.pop(live.row.id, None)
        await self._agents.ended(live, reason)

    async def _restart(self, live: LiveAgent, reason: str) -> bool:
        """Start a worker that died anew; returns False if the agent ends with it."""
        agent = live.row
        while live.kind.restarted and agent.status != "stopping" and self._may_restart(agent.id):
            live.ready.clear()
            agent.status = "starting"
            await self._agents.record(agent, "restarting", reason=reason)
            try:
                handle = await self._start(live)
            except (AgentDiedError, OSError, DeckError) as exc:
                reason = str(exc)
                continue
            if agent.id not in self._agents:  # it was stopped meanwhile
                await handle.end(grace=0)
                return False
            live.handle, agent.process, agent.status = handle, handle.process, "idle"
            await self._agents.record(agent, "restarted")
            live.ready.set()
            return True
        return False

    def _may_restart(self, agent_id: str) -> bool:
        now, earlier = self._clock.monotonic(), self._restarts[agent_id]
        if len(earlier) == MAX_RESTARTS and now - earlier[0] < RESTART_PERIOD:
            return False
        earlier.append(now)
        return True

    async def measure(self, live: LiveAgent) -> None:
        """Tell the tracker what a busy agent uses, every METRICS_EVERY at most."""
        now = self._clock.monotonic()
        if live.measured is not None and now - live.measured[0] < METRICS_EVERY:
            return
        usage = live.handle.usage()
        if usage is None or usage.memory_bytes is None:
            return
        if live.measured is not None:
            since, before = live.measured
            percent = 100 * max(0.0, usage.cpu_seconds - before.cpu_seconds) / (now - since)
            self._tracker.measured(live.row, usage, percent)
        live.measured = (now, usage)
