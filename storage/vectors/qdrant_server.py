"""The connection to a Qdrant server: calls that fail with the deck's errors, in one line, without the API key."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ..errors import LimitError, NotFoundError, StorageError
from ..remote import TIMEOUT, malformed, one_line, without_password

CONNECTIONS = 8  # at most, of one process
OLDEST = (1, 17)  # Qdrant that inserts a point only where there is none
_UNCERTAIN = "a change may have been made or not: it can be repeated as it was"


class Server:
    """`client` and its address, as errors may show it."""

    def __init__(self, client: AsyncQdrantClient, address: str) -> None:
        self.client = client
        self.address = address

    @classmethod
    def at(cls, url: str, api_key: str | None) -> Server:
        """The server that `http(s)://host:port` names; nothing is sent yet.

        Raises:
            StorageError: the URL is malformed.
        """
        address = without_password(url)
        try:
            client = AsyncQdrantClient(
                url=url,
                timeout=int(TIMEOUT),
                check_compatibility=False,  # it asks from a thread and warns; `check` does it
                headers={"api-key": api_key} if api_key else None,  # as `api_key` it warns, of loopback too
                limits=httpx.Limits(max_connections=CONNECTIONS),  # kept open, which it is not by itself on loopback
            )
        except ValueError:
            raise StorageError(malformed(address)) from None
        return cls(client, address)

    async def version(self) -> str:
        """The server's version.

        Raises:
            StorageError: it cannot be reached, is no Qdrant, or is too old.
        """
        with self.explained():
            version = (await self.client.info()).version
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
        if numbers < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise StorageError(f"{self.address}: Qdrant {version} is too old: upgrade it to {needed} or newer")
        return version

    @contextmanager
    def explained(self, name: str | None = None) -> Generator[None]:
        """Turns what the client raises into DeckErrors; `name` is the collection that a 404 is about."""
        try:
            yield
        except UnexpectedResponse as exc:
            raise self._refusal(exc, name) from exc
        except ResponseHandlingException as exc:
            raise StorageError(self._silence(exc.source)) from exc
        except json.JSONDecodeError as exc:  # the client lets it through
            raise StorageError(self._silence(exc)) from exc
        except ResourceExhaustedResponse as exc:
            raise StorageError(f"{self.address} has too much to do: {one_line(exc)}; try again") from exc

    def _refusal(self, exc: UnexpectedResponse, name: str | None) -> StorageError | NotFoundError | LimitError:
        match exc.status_code:
            case 404 if name is not None:
                return NotFoundError(f"collection '{name}' does not exist")
            case 401 | 403:
                return StorageError(f"{self.address} refuses the API key (HTTP {exc.status_code}), or wants one")
            case 413:
                return LimitError(
                    f"this is more than {self.address} takes at once (its max_request_size_mb): upsert fewer points"
                )
            case _:
                return StorageError(f"{self.address}: HTTP {exc.status_code}: {_told(exc.content)}")

    def _silence(self, source: Exception) -> str:
        if isinstance(source, httpx.ConnectError | httpx.ConnectTimeout):
            return f"cannot connect to {self.address}: {one_line(source)}"
        reason = one_line(source) if isinstance(source, httpx.HTTPError) else type(source).__name__
        return f"{self.address} gave no proper answer: {reason}; {_UNCERTAIN}"

    async def close(self) -> None:
        await self.client.close()


def _told(content: bytes) -> str:
    """The sentence in an error's body."""
    try:
        body: Any = json.loads(content)
        text = str(body["status"]["error"])
    except (ValueError, KeyError, TypeError):
        text = "no reason given"
    return " ".join(text.split())[:300]
