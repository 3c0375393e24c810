"""The tokens that open the HTTP doors, and what each may do."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

MIN_LENGTH = 16  # characters: what can be guessed is no token
Rights = Literal["read", "full"]
OWNER = "client"  # who sends QUARTERDECK_HTTP_TOKEN, and who calls where there is no token


class Token(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    token: SecretStr = Field(min_length=MIN_LENGTH)
    rights: Rights = "read"


class HttpTable(BaseModel):
    """The table `[http]` of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")], Token] = Field(
        default_factory=dict[str, Token]
    )

    def __str__(self) -> str:
        return ", ".join(f"{name} ({token.rights})" for name, token in self.tokens.items())


class Keyring:
    """All tokens that are known; none at all means that whoever reaches the server may use it."""

    def __init__(self, full: SecretStr | None, table: HttpTable) -> None:
        self._known = list(_digests(full, table))

    def __bool__(self) -> bool:
        return bool(self._known)

    def holder(self, given: bytes) -> tuple[str, Rights] | None:
        """Whose token that is. Takes as long for any token, and tells nothing of how much of it is right."""
        digest = hashlib.sha256(given).digest()
        found = None
        for known, holder in self._known:
            if hmac.compare_digest(known, digest):
                found = holder
        return found


def _digests(full: SecretStr | None, table: HttpTable) -> Iterator[tuple[bytes, tuple[str, Rights]]]:
    if full is not None:
        yield _digest(full), (OWNER, "full")
    for name, token in table.tokens.items():
        yield _digest(token.token), (name, token.rights)


def _digest(token: SecretStr) -> bytes:
    return hashlib.sha256(token.get_secret_value().encode()).digest()
