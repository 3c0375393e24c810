"""Requests to one S3 bucket: retried inside a deadline, their failures in plain words."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# botocore has no annotations.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import aioboto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header

from ..errors import StorageError
from ..remote import CONNECT_TIMEOUT, one_line
from .s3_location import S3Location

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import HeadObjectOutputTypeDef

T = TypeVar("T")

CONNECTIONS = 64
ATTEMPTS = 6
READ_TIMEOUT = 15.0  # seconds without a byte of the answer, then the next attempt
REQUEST_DEADLINE = 60.0  # seconds of a request with all its attempts
MISSING = {"404", "NoSuchKey"}
REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
DIFFERENT = {"BadDigest", "XAmzContentChecksumMismatch"}


class S3Error(StorageError):
    """A failed request; `s3_code` is the server's word for it, empty if there was no answer."""

    def __init__(self, message: str, s3_code: str = "") -> None:
        super().__init__(message)
        self.s3_code = s3_code


class S3Bucket:
    """A bucket and the client for all requests to it."""

    def __init__(self, client: S3Client, location: S3Location, deadline: float) -> None:
        self.client = client
        self.name = location.bucket
        self._where = str(location)
        self._deadline = deadline
        self._lifetime = AsyncExitStack()

    @classmethod
    async def open(cls, location: S3Location, deadline: float = REQUEST_DEADLINE) -> Self:
        """Connect and see that the bucket can be used; `deadline` is in seconds, for a request with all its attempts.

        Raises:
            StorageError: the server cannot be reached, refuses the keys or has no such bucket.
        """
        session: Any = aioboto3.Session(
            aws_access_key_id=location.access_key,
            aws_secret_access_key=location.secret_key,
            region_name=location.region,
        )
        config = Config(
            signature_version="s3v4",
            # The signed headers hold a checksum of the contents, so hashing them for the signature again adds nothing.
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            retries={"mode": "adaptive", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            max_pool_connections=CONNECTIONS,
            ignore_configured_endpoint_urls=True,
            user_agent="quarterdeck",  # the usual one is composed anew for every request, twice
        )
        async with AsyncExitStack() as stack:
            client: S3Client = await stack.enter_async_context(
                session.client("s3", endpoint_url=location.endpoint, config=config)
            )
            client.meta.events.unregister("before-call.s3", add_expect_header)  # it costs every put a round trip
            bucket = cls(client, location, deadline)
            await bucket._check()
            bucket._lifetime = stack.pop_all()
        return bucket

    async def _check(self) -> None:
        try:
            await self.ask(self.client.head_bucket(Bucket=self.name))
        except S3Error as exc:
            if exc.s3_code == "404":
                raise StorageError(f"there is no {self._where}: create it, or name another one") from None
            raise

    async def close(self) -> None:
        await self._lifetime.aclose()

    async def ask(self, request: Awaitable[T]) -> T:
        """Raises S3Error: there was no answer in time, or a refusal."""
        try:
            async with asyncio.timeout(self._deadline):
                return await request
        except TimeoutError:
            raise S3Error(f"{self._where}: no answer within {self._deadline:g} s") from None
        except BotoCoreError as exc:
            raise S3Error(f"{self._where}: {one_line(exc)}") from exc
        except ClientError as exc:
            error = cast("dict[str, str]", exc.response["Error"])
            code = error.get("Code", "")
            raise S3Error(f"{self._where}: {_explanation(code, error.get('Message', ''))}", code) from exc

    async def head(self, key: str) -> HeadObjectOutputTypeDef | None:
        """What the bucket says of an object; None if there is none. Raises S3Error."""
        try:
            return await self.ask(self.client.head_object(Bucket=self.name, Key=key))
        except S3Error as exc:
            if exc.s3_code in MISSING:
                return None
            raise


def _explanation(code: str, message: str) -> str:
    if code in REFUSED:
        return f"the keys are refused ({code}): check MINIO_ACCESS_KEY and MINIO_SECRET_KEY, and what they may do"
    if code in DIFFERENT:
        return f"what arrived is not what was sent ({code}): upload it again"
    return f"{code} {message}"
