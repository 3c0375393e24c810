"""The pipe transport, through real processes and pipes; the chunking of its reader, by any cut."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest

from quarterdeck.server.stdio import PipeReader, PipeWriter

SERVER = [sys.executable, "-m", "tests.server.echo_server"]
INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": "hello",
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}},
}
Message = dict[str, Any]


def call(request_id: int, tool: str, **arguments: Any) -> Message:
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


class RawClient:
    """Lines in, lines out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def send(self, *messages: Message | bytes) -> None:
        assert self.process.stdin is not None
        for message in messages:
            line = message if isinstance(message, bytes) else json.dumps(message).encode()
            self.process.stdin.write(line + b"\n")
            await self.process.stdin.drain()

    async def receive(self) -> Message:
        assert self.process.stdout is not None
        return json.loads(await self.process.stdout.readline())

    async def stderr_until(self, word: bytes) -> bytes:
        assert self.process.stderr is not None
        seen = b""
        while word not in seen:
            line = await self.process.stderr.readline()
            assert line, seen
            seen += line
        return seen


@asynccontextmanager
async def raw_client() -> AsyncGenerator[RawClient]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*SERVER, stdin=pipe, stdout=pipe, stderr=pipe, limit=1 << 27)
    client = RawClient(process)
    try:
        await client.send(INITIALIZE)
        assert (await client.receive())["id"] == "hello"
        await client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_both_protocol_eras_are_served(era: Any, tmp_path: Path) -> None:
    reports: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    parameters = StdioServerParameters(command=SERVER[0], args=SERVER[1:], cwd=Path.cwd())
    with (tmp_path / "stderr").open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors), mode=era) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {"echo", "shout", "hang"}
            result = await client.call_tool("echo", {"text": "åb", "repeat": 2}, progress_callback=on_progress)
            assert result.structured_content == {"text": "åbåb"}
    assert reports == [(1, 1, "echoing")]


async def test_five_megabytes_in_either_direction() -> None:
    text = "ü" * (5 << 19)
    async with raw_client() as client:
        await client.send(call(1, "echo", text=text))
        assert (await client.receive())["result"]["structuredContent"] == {"text": text}


async def test_a_client_that_reads_late_loses_nothing() -> None:
    async with raw_client() as client:
        await client.send(*(call(i, "echo", text=f"{i:04}", repeat=100_000) for i in range(50)))
        answers = [await client.receive() for _ in range(50)]
    texts = {answer["id"]: answer["result"]["structuredContent"]["text"] for answer in answers}
    assert texts == {i: f"{i:04}" * 100_000 for i in range(50)}


async def test_a_line_that_is_no_message_gets_an_error_and_the_next_call_an_answer() -> None:
    async with raw_client() as client:
        await client.send(b"{nonsense", call(1, "echo", text="still here"))
        refusal, answer = await client.receive(), await client.receive()
    assert refusal["id"] is None
    assert refusal["error"]["code"] == -32700
    assert answer["result"]["structuredContent"] == {"text": "still here"}


async def test_invalid_utf8_is_refused_under_the_id_of_its_call() -> None:
    line = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"\xff"}}}'
    async with raw_client() as client:
        await client.send(line)
        refusal = await client.receive()
    assert (refusal["id"], refusal["error"]["code"]) == (7, -32700)


async def test_a_stray_print_goes_to_stderr() -> None:
    async with raw_client() as client:
        await client.send(call(1, "shout", text="not on the wire"))
        assert (await client.receive())["result"]["structuredContent"] == {"text": "printed"}
        assert b"not on the wire" in await client.stderr_until(b"wire")


async def test_cancelling_a_call_reaches_the_tool_and_frees_the_connection() -> None:
    async with raw_client() as client:
        await client.send(call(5, "hang"))
        await client.stderr_until(b"hanging")
        await client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
        await client.stderr_until(b"cancelled")
        await client.send(call(6, "echo", text="on"))
        while (answer := await client.receive())["id"] != 6:
            assert answer["id"] == 5
    assert answer["result"]["structuredContent"] == {"text": "on"}


async def test_end_of_input_with_a_call_in_flight_ends_the_server_cleanly() -> None:
    async with raw_client() as client:
        await client.send(call(1, "hang"))
        await client.stderr_until(b"hanging")
        assert client.process.stdin is not None
        client.process.stdin.close()
        assert await asyncio.wait_for(client.process.wait(), 10) == 0


@pytest.mark.parametrize("last_line", [b"", b"{nonsense\n"])
async def test_a_client_that_closes_its_end_early_ends_the_server_without_a_traceback(last_line: bytes) -> None:
    read, write = os.pipe()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*SERVER, stdin=pipe, stdout=write, stderr=pipe)
    os.close(write)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
    await asyncio.to_thread(os.read, read, 1 << 16)
    os.kill(process.pid, signal.SIGSTOP)  # so that it finds both at once
    os.close(read)
    process.stdin.write(last_line)
    await process.stdin.drain()
    os.kill(process.pid, signal.SIGCONT)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert await process.stderr.read() == b""
    process.stdin.close()


def test_one_socket_for_both_directions_is_served() -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(SERVER, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE) as process,
    ):
        theirs.close()
        ours.settimeout(30)
        ours.sendall(json.dumps(INITIALIZE).encode() + b"\n")
        assert json.loads(ours.makefile().readline())["id"] == "hello"
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(30) == 0


async def test_what_a_client_does_not_read_is_given_up_with_the_descriptor() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb", 0) as file:
        transport, writer = await asyncio.get_running_loop().connect_write_pipe(PipeWriter, file)
        writer.write(b"x" * (1 << 20))
        finishing = asyncio.create_task(writer.finish())
        await asyncio.sleep(0)
        finishing.cancel()
        await asyncio.wait([finishing])
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        await asyncio.sleep(0)
    os.close(read)


def test_files_instead_of_pipes_are_served_by_the_stock_transport(tmp_path: Path) -> None:
    script = tmp_path / "in"
    script.write_text("".join(json.dumps(message) + "\n" for message in (INITIALIZE, call(1, "echo", text="file"))))
    with script.open() as stdin, (tmp_path / "out").open("w") as stdout:
        subprocess.run(SERVER, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, check=True, timeout=30)
    answers = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert answers[0]["id"] == "hello"


class FakePipe(asyncio.ReadTransport, asyncio.WriteTransport):
    """Takes what is written; does not read by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def wired(max_line: int) -> tuple[PipeReader, FakePipe]:
    pipe, writer = FakePipe(), PipeWriter()
    writer.connection_made(pipe)
    reader = PipeReader(writer, max_line)
    reader.connection_made(pipe)
    return reader, pipe


async def read_all(reader: PipeReader) -> list[int | str]:
    reader.eof_received()
    return [request_id(item) async for item in reader]


def request_id(item: SessionMessage | Exception) -> int | str:
    assert isinstance(item, SessionMessage)
    assert isinstance(item.message, JSONRPCRequest)
    return item.message.id


@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=8), cuts=st.lists(st.integers(1, 97), min_size=1))
def test_any_cut_of_the_stream_gives_the_same_messages(sizes: list[int], cuts: list[int]) -> None:
    async def run() -> None:
        reader, pipe = wired(max_line=10_000)
        stream = b"".join(json.dumps(call(i, "echo", text="x" * n)).encode() + b"\n" for i, n in enumerate(sizes))
        position = turn = 0
        while position < len(stream):
            size = cuts[turn % len(cuts)]
            reader.data_received(stream[position : position + size])
            position, turn = position + size, turn + 1
        assert await read_all(reader) == list(range(len(sizes)))
        assert pipe.written == b""

    asyncio.run(run())


@pytest.mark.parametrize(
    "template",
    [
        '{{"jsonrpc":"2.0","id":7,"method":"m","params":{{"id":1,"text":"{filler}"}}}}',
        '{{"method":"m","params":{{"id":1,"text":"{filler}"}},"jsonrpc":"2.0","id":7}}',
        '{{"method":"m","params":{{"id":1,"text":"{filler}"}},"id":7,"jsonrpc":"2.0"}}',
    ],
    ids=["id first", "id last", "version last"],
)
async def test_a_line_over_the_limit_is_answered_under_its_id_and_skipped(template: str) -> None:
    reader, pipe = wired(max_line=20_000)
    line = template.format(filler="x" * 100_000).encode() + b"\n"
    for start in range(0, len(line), 4096):
        reader.data_received(line[start : start + 4096])
    reader.data_received(json.dumps(call(8, "echo")).encode() + b"\n")
    assert await read_all(reader) == [8]
    refusal = json.loads(pipe.written)
    assert refusal["id"] == 7
    assert f"{len(line) - 1} bytes" in refusal["error"]["message"]


async def test_reading_stops_while_nobody_takes_the_messages() -> None:
    reader, pipe = wired(max_line=1 << 20)
    line = json.dumps(call(1, "echo", text="x" * 100_000)).encode() + b"\n"
    sent = 0
    while pipe.reading:
        reader.data_received(line)
        sent += 1
    assert sent * len(line) < 5 << 20
    for _ in range(sent):
        await reader.receive()
    assert pipe.reading


async def test_descriptors_are_restored_and_blocking_when_the_server_ends() -> None:
    code = (
        "import anyio, os\n"
        "from quarterdeck.server.stdio import pipe_streams\n"
        "async def main():\n"
        "    async with pipe_streams() as (reader, _):\n"
        "        print('aside')\n"
        "        await reader.receive()\n"
        "anyio.run(main)\n"
        "print('back', os.get_blocking(0), os.get_blocking(1))\n"
    )
    line = json.dumps(call(1, "echo")).encode() + b"\n"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], input=line, capture_output=True, timeout=30, check=True
    )
    assert done.stdout.split() == [b"back", b"True", b"True"]
    assert b"aside" in done.stderr
