"""Plays the server for one real worker process."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

TOOLS = Path(__file__).resolve().parents[3] / "tools"
BOOTSTRAP = (
    f"import sys; sys.path.insert(0, {str(TOOLS)!r}); from agents.worker.main import main; sys.exit(main({{!r}}))"
)
PROBE = (
    f"import sys; sys.path[:0] = [{str(TOOLS)!r}, {str(Path(__file__).parent)!r}]\nimport probe; sys.exit(probe.main())"
)
TIMEOUT = 60.0  # seconds; only a test that fails waits for it

Message = dict[str, Any]
Answer = Callable[[str, dict[str, Any]], Awaitable[Any]]


class RefusalError(Exception):
    """What an `Answer` raises to refuse a call."""


async def no_calls(tool: str, arguments: dict[str, Any]) -> Any:
    raise RefusalError(f"no call expected, got {tool} {arguments}")


class Driver:
    """`async with Driver("researcher", answer) as worker: await worker.run({...})`."""

    def __init__(self, agent_type: str, answer: Answer = no_calls, options: Sequence[str] = (), code: str = "") -> None:
        self.agent_type = agent_type
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.progress: list[Message] = []
        self._answer = answer
        self._command = [sys.executable, "-I", "-S", "-E", "-u", *options, "-c", code or BOOTSTRAP.format(agent_type)]
        self._tasks = 0

    async def __aenter__(self) -> Driver:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=pipe, limit=64 << 20
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def start(self, name: str = "Tester", folder: str = "/nowhere") -> Message:
        """Introduce the agent; returns its first message."""
        about = {"agentId": "a-1", "agentType": self.agent_type, "name": name, "folder": folder}
        await self.send(type="start", protocol=1, **about, capabilities=["label"])
        return await self.receive()

    async def send(self, **message: Any) -> None:
        await self.send_raw(json.dumps(message, ensure_ascii=False).encode() + b"\n")

    async def send_raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def receive(self) -> Message:
        """The next message. Raises EOFError when the worker has closed its pipe."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            line = await self.process.stdout.readline()
        if not line:
            raise EOFError
        message: Message = json.loads(line.decode("utf-8", "strict"))
        return message

    async def receive_of(self, *kinds: str) -> Message:
        """The next message of one of these types; progress before it is collected."""
        while (message := await self.receive())["type"] not in kinds:
            assert message["type"] == "progress", message
            self.progress.append(message)
        return message

    async def begin(self, prompt: str | Message) -> str:
        """Send a task; returns its id."""
        self._tasks += 1
        task_id = f"q-{self._tasks}"
        text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
        await self.send(type="task", id=task_id, prompt=text)
        return task_id

    async def finish(self, task_id: str) -> Message:
        """Serve the task's calls until it ends; returns its last message."""
        while True:
            message = await self.receive_of("call", "result", "error", "cancelled")
            if message["type"] != "call":
                assert message["id"] == task_id
                return message
            await self.serve(message)

    async def serve(self, call: Message) -> None:
        self.calls.append((call["tool"], call["arguments"]))
        try:
            result = await self._answer(call["tool"], call["arguments"])
        except RefusalError as exc:
            await self.send(type="reply", id=call["id"], error=str(exc))
        else:
            await self.send(type="reply", id=call["id"], result=result)

    async def run(self, prompt: str | Message) -> Any:
        """Do a task to its end; returns its result. Fails the test on anything else."""
        message = await self.finish(await self.begin(prompt))
        assert message["type"] == "result", message
        return message["result"]

    async def refuse(self, prompt: str | Message) -> str:
        """Do a task that must end in an error; returns its text."""
        message = await self.finish(await self.begin(prompt))
        assert message["type"] == "error", message
        return str(message["error"])

    async def ended(self) -> tuple[int, str, str]:
        """Wait for the end of the process: exit code, what was left on stdout, and stderr."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            out, err = await asyncio.gather(self.process.stdout.read(), self.process.stderr.read())
            return await self.process.wait(), out.decode(), err.decode()


class FakeDeck:
    """Answers `uploads`, `memory_usage` and the vector tools' writes from dicts, in the shapes of the real ones."""

    def __init__(self, uploads: dict[str, str] | None = None, page: int = 1 << 20) -> None:
        self.uploads = uploads or {}
        self.files: dict[str, bytes] = {}  # uploads that are no text
        self.memory: dict[tuple[str, str], Any] = {}
        self.points: dict[str, Message] = {}
        self.page = page  # bytes of one read

    async def __call__(self, tool: str, arguments: dict[str, Any]) -> Any:
        match tool, arguments.get("action"):
            case "uploads", "read":
                assert arguments["encoding"] == "base64"
                return self._read(arguments["key"], arguments["offset"])
            case "memory_usage", "store":
                assert len(json.dumps(arguments["value"], ensure_ascii=False).encode()) <= 1 << 20
                self.memory[arguments["namespace"], arguments["key"]] = arguments["value"]
                return {"success": True, "version": 1}
            case "vector_upsert", None:
                assert arguments["collection"] == "documents"
                self.points.update({point["id"]: point for point in arguments["points"]})
                return {"success": True, "upserted": len(arguments["points"])}
            case "vector_delete", None:
                where = arguments["filter"]
                for point_id, point in list(self.points.items()):
                    payload = point["payload"]
                    if payload["document"] == where["document"] and payload["chunk"] >= where["chunk"]["gte"]:
                        del self.points[point_id]
                return {"success": True}
            case _:
                raise RefusalError(f"unexpected {tool} {arguments}")

    def _read(self, key: str, offset: int) -> Message:
        if key not in {*self.uploads, *self.files}:
            raise RefusalError(f"no upload {key!r}")
        data = self.files[key] if key in self.files else self.uploads[key].encode()
        part = data[offset : offset + self.page]
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        page: Message = {"size": len(data), "type": kind, "offset": offset, "content": b64encode(part).decode()}
        end = offset + len(part)
        return page if end == len(data) else {**page, "nextOffset": end}
