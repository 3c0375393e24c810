"""A TCP proxy on loopback between an HTTP client and its server: it delays, and it does to a request what it is told.

`python -m tests.servers.proxy PORT DELAY` delays each direction by DELAY seconds and prints its own port.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal, cast

Fate = Literal["pass", "reset", "refuse", "stall", "crawl", "lose the answer"]

CHUNK = 65_536
CRAWL = 1_024  # bytes, then a pause
CRAWL_PAUSE = 0.05  # seconds
_REQUEST = re.compile(rb"(?:GET|HEAD|PUT|POST|DELETE) [^\r\n]*")
_BODY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
REFUSAL = b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class Proxy:
    """Set `fate` to a function of the request line, such as `PUT /bucket/key HTTP/1.1`."""

    def __init__(self, upstream: int, delay: float = 0) -> None:
        self.fate: Callable[[str], Fate] = lambda _: "pass"
        self.requests: list[str] = []
        self.port = 0
        self._clients: set[asyncio.Task[None]] = set()
        self._upstream = upstream
        self._delay = delay

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[Proxy]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for client in self._clients:
                client.cancel()
            await asyncio.gather(*self._clients)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        there, back = await asyncio.open_connection("127.0.0.1", self._upstream)
        for stream in (writer, back):
            stream.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lost = asyncio.Event()
        pumps = [
            asyncio.create_task(self._requests(reader, back, writer, lost)),
            asyncio.create_task(self._answers(there, writer, lost)),
        ]
        with suppress(asyncio.CancelledError):  # how `serve` ends it; nobody waits for more
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for stream in (writer, back):
            stream.transport.abort()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
        lost: asyncio.Event,
    ) -> None:
        fate: Fate = "pass"
        async for data in self._delayed(reader):
            if request := _REQUEST.match(data):
                line = request[0].decode()
                self.requests.append(line)
                fate = self.fate(line)
            if fate == "reset":
                return
            if fate == "refuse" and request:
                writer.write(REFUSAL)
            if fate == "lose the answer":
                lost.set()
            if fate in ("pass", "lose the answer"):
                back.write(data)
            elif fate == "crawl":
                for start in range(0, len(data), CRAWL):
                    back.write(data[start : start + CRAWL])
                    await asyncio.sleep(CRAWL_PAUSE)
            await back.drain()

    async def _answers(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        async for data in self._delayed(there):
            if lost.is_set():
                return
            writer.write(data)
            await writer.drain()

    async def _delayed(self, reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
        """Yield what comes, each chunk so much later, while the next ones are already read."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def read() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except ConnectionError:
                    data = b""
                await chunks.put((loop.time() + self._delay, data))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await chunks.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                if not data:
                    return
                yield data
        finally:
            reading.cancel()


async def _main(upstream: int, delay: float) -> None:
    async with Proxy(upstream, delay).serve() as proxy:
        print(proxy.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2])))
