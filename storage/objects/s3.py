"""Objects in a bucket of AWS, MinIO or another server that speaks S3; what an object is stands in its metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote

from anyio import CapacityLimiter, create_task_group

from ..clock import milliseconds_of
from ..errors import DeckError, InvalidArgumentError
from .base import PRESIGN_SECONDS, Contents, ObjectInfo, Stored, check_key, missing
from .budget import MemoryBudget
from .s3_bucket import MISSING, REQUEST_DEADLINE, S3Bucket, S3Error
from .s3_location import S3Location
from .s3_put import MARK, PART_BYTES, SHA256, LeftOver, Put

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import HeadObjectOutputTypeDef

MEMORY_BYTES = 4 * PART_BYTES  # of contents that are on their way
LARGE_AT_ONCE = 4  # files in parts; more would only wait for memory, and hold some
THREADS = 8  # that read contents
DESCRIBED_AT_ONCE = 32
PAGE = 1_000  # keys that S3 lists at once
NAME_BYTES = 1_500  # of the encoded name; all metadata of an object may have 2 KB
NAME, CREATED_AT = "name", "created-at"  # in the metadata


class S3ObjectStore:
    """An `ObjectStore`; any number of processes may use one bucket.

    A put without an answer fails, though its object may still turn up later, as a whole. Of two deletes at the same
    moment, both may have been the one that removed it.
    """

    backend = "s3"

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket
        self._memory = MemoryBudget(MEMORY_BYTES)
        self._threads = CapacityLimiter(THREADS)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._left_over = LeftOver(bucket)
        self._describing = asyncio.Semaphore(DESCRIBED_AT_ONCE)

    @classmethod
    async def open(cls, location: S3Location, prefix: str, deadline: float = REQUEST_DEADLINE) -> Self:
        """Connect, and abort what dead processes left half-uploaded under keys that start with `prefix`.

        Takes the deadline and raises as `S3Bucket.open`.
        """
        store = cls(await S3Bucket.open(location, deadline))
        await store._left_over.abort_abandoned(prefix)
        return store

    async def put(
        self,
        key: str,
        contents: Contents,
        *,
        size: int,
        name: str,
        content_type: str,
        created_at: int,
        stored: Stored | None = None,
    ) -> ObjectInfo:
        check_key(key)
        await self._left_over.clear()
        encoded = quote(name, safe=" ")[:NAME_BYTES]
        put = Put(
            self._bucket,
            self._memory,
            self._threads,
            self._left_over,
            key=key,
            contents=contents,
            size=size,
            content_type=content_type,
            metadata={NAME: encoded, CREATED_AT: str(created_at)},
            stored=stored,
        )
        async with self._large if size > PART_BYTES else nullcontext():
            sha256 = await put.run()
        return ObjectInfo(key, unquote(encoded, errors="ignore"), content_type, size, sha256, created_at)

    async def stat(self, key: str) -> ObjectInfo | None:
        check_key(key)
        async with self._describing:
            found = await self._bucket.head(key)
        return None if found is None else _info(key, found)

    async def read(self, key: str, offset: int, length: int) -> bytes:
        check_key(key)
        if length == 0:
            if await self.stat(key) is None:
                raise missing(key)
            return b""
        try:
            return await self._bucket.ask(self._read(key, f"bytes={offset}-{offset + length - 1}"))
        except S3Error as exc:
            if exc.s3_code == "InvalidRange":
                return b""
            if exc.s3_code in MISSING:
                raise missing(key) from None
            raise

    async def _read(self, key: str, byte_range: str) -> bytes:
        answer = await self._bucket.client.get_object(Bucket=self._bucket.name, Key=key, Range=byte_range)
        async with answer["Body"] as body:
            contents: bytes = await body.read()
        return contents

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        found: list[ObjectInfo] = []
        while len(found) < limit:
            page = await self._bucket.ask(
                self._bucket.client.list_objects_v2(
                    Bucket=self._bucket.name, Prefix=prefix, StartAfter=after, MaxKeys=min(limit - len(found), PAGE)
                )
            )
            keys = [entry["Key"] for entry in page.get("Contents", []) if "Key" in entry]
            found += await self._describe([key for key in keys if _can_be_used(key)])
            if not page["IsTruncated"] or not keys:
                break
            after = keys[-1]
        return found

    async def _describe(self, keys: Sequence[str]) -> Sequence[ObjectInfo]:
        """All that are still there."""
        infos: dict[str, ObjectInfo | None] = {}

        async def describe(key: str) -> None:
            infos[key] = await self.stat(key)

        try:
            async with create_task_group() as group:
                for key in keys:
                    group.start_soon(describe, key)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [info for key in keys if (info := infos[key]) is not None]

    async def delete(self, key: str) -> bool:
        if await self.stat(key) is None:
            return False
        await self._bucket.ask(self._bucket.client.delete_object(Bucket=self._bucket.name, Key=key))
        return True

    async def presign(self, key: str, seconds: int) -> str:
        info = await self.stat(key)
        if not 1 <= seconds <= PRESIGN_SECONDS:
            raise InvalidArgumentError(f"a URL can be valid for 1 to {PRESIGN_SECONDS} seconds, not {seconds}")
        if info is None:
            raise missing(key)
        return await self._bucket.client.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket.name,
                "Key": key,
                # Saved and not shown: a page that somebody uploaded must not run as one of the store's.
                "ResponseContentDisposition": f"attachment; filename*=UTF-8''{quote(info.name, safe='')}",
            },
            ExpiresIn=seconds,
        )

    async def close(self) -> None:
        await self._bucket.close()


def _info(key: str, found: HeadObjectOutputTypeDef) -> ObjectInfo:
    metadata = found["Metadata"]
    created_at = metadata.get(CREATED_AT, "")
    return ObjectInfo(
        key,
        unquote(metadata.get(NAME, ""), errors="ignore") if MARK in metadata else key.rpartition("/")[2],
        found["ContentType"],
        found["ContentLength"],
        metadata.get(SHA256),
        int(created_at) if created_at.isdecimal() else milliseconds_of(found["LastModified"]),
    )


def _can_be_used(key: str) -> bool:
    try:
        check_key(key)
    except DeckError:
        return False
    return True
