"""A stand-in for an OpenAI-compatible embeddings endpoint, on loopback: it answers as a test has told it to.

Its vectors are letter counts, of whatever length is wanted: real enough to be compared.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EmbeddingsServer:
    """Runs from its making until `close`. `next` holds the answers to the next requests, in their order: a status, with
    headers and a body, or None for the usual one, which all others get.
    """

    def __init__(self, dimension: int = 26) -> None:
        self.dimension = dimension
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.next: deque[tuple[int, dict[str, str], str] | None] = deque()
        self.silence = threading.Event()  # set: answers are given; cleared: withheld
        self.silence.set()
        self.is_withholding = False  # an answer is waited for
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(body)
                server.authorizations.append(self.headers["Authorization"])
                server.is_withholding = not server.silence.is_set()
                server.silence.wait(20)
                status, headers, text = (server.next.popleft() if server.next else None) or server.usual(body)
                with suppress(ConnectionError):  # who asked may have been killed
                    self.answer(status, headers, text.encode())

            def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                length = str(len(content))
                for name, value in {"Content-Type": "application/json", "Content-Length": length, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def vector(self, text: str) -> list[float]:
        counts = [text.lower().count(chr(ord("a") + number % 26)) for number in range(self.dimension)]
        return [float(count) for count in counts] if any(counts) else [1.0] * self.dimension

    def usual(self, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        """The answer in reverse: a client must go by `index`."""
        data = [{"index": number, "embedding": self.vector(text)} for number, text in enumerate(body["input"])]
        return 200, {}, json.dumps({"object": "list", "model": body["model"], "data": data[::-1]})

    def close(self) -> None:
        self.silence.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
