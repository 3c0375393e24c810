"""The HTTP application over a deck of its own, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quarterdeck.server.config import Settings
from quarterdeck.server.deck import open_deck
from quarterdeck.server.web.app import http_app


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    async with open_deck(Settings(data_dir=folder / "data", upload_roots=[], **settings)) as deck:
        app = http_app(deck, asyncio.Event())
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[httpx2.AsyncClient]:
    async with served(tmp_path) as client:
        yield client
