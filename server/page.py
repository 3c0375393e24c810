"""`quarterdeck dashboard`: the page for a data directory, beside the servers that work there on stdio."""

from __future__ import annotations

import html
import os
import tempfile
import webbrowser
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from .config import Settings


class Page:
    """Shows the page once it is served. `settings` are the user's, on a free port that only this machine reaches."""

    def __init__(self, settings: Settings, *, open_browser: bool) -> None:
        self.settings = settings.model_copy(update={"http_host": "127.0.0.1", "http_port": 0})
        self._open = open_browser
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def show(self, url: str) -> None:
        """Print the address, and open it. A token stands behind the `#`, which browsers keep to themselves."""
        token = self.settings.http_token
        address = f"{url}/" if token is None else f"{url}/#token={quote(token.get_secret_value(), safe='')}"
        print(address, flush=True)  # noqa: T201
        if self._open:
            webbrowser.open(address if token is None else self._file(address))

    def _file(self, address: str) -> str:
        """A file that leads there and that only this user can read: everybody can read the arguments of a browser."""
        descriptor, name = tempfile.mkstemp(suffix=".html", prefix="quarterdeck-")  # 0600
        path = Path(name)
        self._stack.callback(path.unlink, missing_ok=True)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">')
        return path.as_uri()
