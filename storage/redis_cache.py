"""The second tier of the cache: Redis or Valkey, for decks on several machines.

A cache must not fail anything, nor slow it down: what Redis does not answer quickly is a miss, and after a failure it
is left alone for a while.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from .cache import Kept
from .clock import Clock
from .errors import StorageError
from .remote import malformed, one_line, without_password

log = logging.getLogger(__name__)

PREFIX = b"quarterdeck:cache:"
CONNECTIONS = 4  # at most, of one process
TIMEOUT = 0.25  # seconds, for an answer
PAUSE = 10.0  # seconds, after a failure


class RedisCache:
    """A `SharedCache`; it connects at its first use."""

    def __init__(self, url: str, clock: Clock) -> None:
        """`redis://…`, `rediss://…` (TLS) or `unix:///path/of.sock`.

        Raises:
            StorageError: the URL is malformed.
        """
        self._address = without_password(url)
        self._clock = clock
        self._closed_until = 0.0  # monotonic
        try:
            pool = BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                url,
                max_connections=CONNECTIONS,
                timeout=TIMEOUT,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                protocol=2,
            )
        except ValueError:
            raise StorageError(malformed(self._address)) from None
        self._client = Redis.from_pool(pool)

    async def get_many(self, digests: Sequence[bytes]) -> list[Kept | None]:
        with self._guarded() as may_ask:
            if may_ask:
                async with self._client.pipeline(transaction=False) as pipe:
                    for digest in digests:
                        pipe.get(PREFIX + digest)
                        pipe.pttl(PREFIX + digest)
                    answers = await pipe.execute()
                pairs = zip(answers[::2], answers[1::2], strict=True)
                return [Kept(value, left / 1000) if value is not None and left > 0 else None for value, left in pairs]
        return [None] * len(digests)

    async def put_many(self, values: Mapping[bytes, bytes], seconds: float) -> None:
        with self._guarded() as may_ask:
            if may_ask:
                async with self._client.pipeline(transaction=False) as pipe:
                    for digest, value in values.items():
                        pipe.set(PREFIX + digest, value, px=int(seconds * 1000))
                    await pipe.execute()

    async def close(self) -> None:
        await self._client.aclose()

    @contextmanager
    def _guarded(self) -> Generator[bool]:
        """Yields whether Redis may be asked."""
        try:
            yield self._clock.monotonic() >= self._closed_until
        except (RedisError, OSError) as exc:
            self._closed_until = self._clock.monotonic() + PAUSE
            log.warning("the cache at %s is left alone for %.0f s: %s", self._address, PAUSE, one_line(exc))
