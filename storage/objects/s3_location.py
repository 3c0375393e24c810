"""Where a bucket is and who may use it; light enough to be read at every start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from ..errors import InvalidArgumentError

REGION = "us-east-1"
FORM = "s3://bucket?endpoint=https://host:port&region=us-east-1"


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket. `endpoint` is None for AWS. The keys are given, never looked for in the machine's surroundings."""

    bucket: str
    endpoint: str | None
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    def __post_init__(self) -> None:
        """Raises InvalidArgumentError: the endpoint is no http or https address of a host."""
        if self.endpoint is not None:
            parts = urlsplit(self.endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise InvalidArgumentError("the endpoint must be http://host:port or https://host:port")

    @classmethod
    def parse(cls, url: str, access_key: str, secret_key: str) -> Self:
        """Read `s3://bucket?endpoint=…&region=…`; without endpoint it is AWS.

        Raises:
            InvalidArgumentError: it is not of that form; the text repeats nothing of it.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        if parts.username is not None or "@" in parts.netloc:
            raise InvalidArgumentError("keys do not belong into the URL: set MINIO_ACCESS_KEY and MINIO_SECRET_KEY")
        if parts.scheme != "s3" or not parts.netloc or parts.path not in ("", "/") or options.keys() - _OPTIONS:
            raise InvalidArgumentError(f"must be {FORM} (endpoint and region may be left out)")
        return cls(parts.netloc, options.get("endpoint"), options.get("region", REGION), access_key, secret_key)

    def __str__(self) -> str:
        return f"bucket {self.bucket} at {self.endpoint or 'AWS'}"


_OPTIONS = {"endpoint", "region"}
