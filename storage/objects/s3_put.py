"""One put into an S3 bucket: as a whole, under a key that is free, or not at all.

`If-None-Match: *` guards the key, also at the completion of a multipart upload. Every put leaves its own mark in the
metadata: where an answer got lost, it tells our object from one that was there before.

Metadata come before the contents and hold the SHA-256 of the whole, so contents of more than one part are read twice.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import TYPE_CHECKING

from anyio import CancelScope, create_task_group, move_on_after, to_thread

from .base import Chunks, Stored, taken, wrong_size
from .budget import MemoryBudget
from .s3_bucket import S3Bucket, S3Error

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 8 << 20
CLEANUP_TIMEOUT = 10.0  # seconds
ABANDONED_AFTER = timedelta(days=1)
MARK, SHA256 = "put", "sha256"  # names in the metadata
NOT_CREATED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchUpload"}


class LeftOver:
    """Multipart uploads that nobody will complete: the server keeps their parts until they are aborted."""

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket
        self._uploads: set[tuple[str, str]] = set()

    async def abort(self, key: str, upload: str) -> None:
        """Take the parts of an upload back, now or before a later put."""
        self._uploads.add((key, upload))
        await self.clear()

    async def abort_abandoned(self, prefix: str) -> None:
        """Abort those that began long ago, where the server lets us see them. Their processes are dead."""
        with suppress(S3Error):
            found = await self._bucket.ask(
                self._bucket.client.list_multipart_uploads(Bucket=self._bucket.name, Prefix=prefix)
            )
            now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])  # by the server's clock
            for upload in found.get("Uploads", []):
                if "Initiated" in upload and now - upload["Initiated"] >= ABANDONED_AFTER:
                    self._uploads.add((upload.get("Key", ""), upload.get("UploadId", "")))
            await self.clear()

    async def clear(self) -> None:
        """Try all of them; those that fail stay."""
        with CancelScope(shield=True), move_on_after(CLEANUP_TIMEOUT):
            for key, upload in list(self._uploads):
                request = self._bucket.client.abort_multipart_upload(Bucket=self._bucket.name, Key=key, UploadId=upload)
                try:
                    await self._bucket.ask(request)
                except S3Error as exc:
                    if exc.s3_code != "NoSuchUpload":
                        continue
                self._uploads.discard((key, upload))


class Put:
    """Made for one call of `ObjectStore.put`; `metadata` is what the object's hold beside mark and SHA-256."""

    def __init__(
        self,
        bucket: S3Bucket,
        memory: MemoryBudget,
        left_over: LeftOver,
        *,
        key: str,
        chunks: Chunks,
        size: int,
        content_type: str,
        metadata: dict[str, str],
        stored: Stored | None,
    ) -> None:
        self._bucket = bucket
        self._memory = memory
        self._left_over = left_over
        self._key = key
        self._chunks = chunks
        self._size = size
        self._type = content_type
        self._mark = uuid.uuid4().hex
        self._metadata = {**metadata, MARK: self._mark}
        self._stored = stored
        self._sent = 0

    async def run(self) -> str:
        """Return the SHA-256 in hex. Raises as `ObjectStore.put`."""
        return await (self._put_whole() if self._size <= PART_BYTES else self._put_parts())

    async def _put_whole(self) -> str:
        async with aclosing(self._parts()) as parts:
            part = await anext(parts)
            try:
                digest = await to_thread.run_sync(_sha256, part)
                request = self._bucket.client.put_object(
                    Bucket=self._bucket.name,
                    Key=self._key,
                    Body=part,
                    ContentType=self._type,
                    Metadata={**self._metadata, SHA256: digest.hex()},
                    ChecksumSHA256=_base64(digest),
                    IfNoneMatch="*",
                )
                await self._create(request)
            finally:
                self._give_back(part, self._size)
        await self._note(self._size)
        return digest.hex()

    async def _put_parts(self) -> str:
        digest, checksums = await self._measure()
        upload = await self._bucket.ask(
            self._bucket.client.create_multipart_upload(
                Bucket=self._bucket.name,
                Key=self._key,
                ContentType=self._type,
                Metadata={**self._metadata, SHA256: digest},
                ChecksumAlgorithm="SHA256",
            )
        )
        try:
            parts = await self._send(upload["UploadId"], checksums)
            request = self._bucket.client.complete_multipart_upload(
                Bucket=self._bucket.name,
                Key=self._key,
                UploadId=upload["UploadId"],
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
            await self._create(request)
        except BaseException:
            await self._left_over.abort(self._key, upload["UploadId"])
            raise
        if await self._found_mark() not in (self._mark, None):  # SeaweedFS can let two completions pass at once
            raise taken(self._key)
        return digest

    async def _measure(self) -> tuple[str, Sequence[str]]:
        """The SHA-256 of the whole, in hex, and those of the parts, as S3 writes them."""
        whole = hashlib.sha256()
        checksums: list[str] = []

        def add(part: BytesIO) -> None:
            whole.update(part.getbuffer())
            checksums.append(_base64(_sha256(part)))

        async with aclosing(self._parts()) as parts:
            async for part in parts:
                length = part.getbuffer().nbytes
                try:
                    await to_thread.run_sync(add, part)
                finally:
                    self._give_back(part, length)
                    del part  # not to be held while the next one waits for memory
        return whole.hexdigest(), checksums

    async def _send(self, upload: str, checksums: Sequence[str]) -> Sequence[CompletedPartTypeDef]:
        """Upload all parts side by side. A part that is not what was measured is refused by the server."""
        done: dict[int, CompletedPartTypeDef] = {}

        async def send(number: int, part: BytesIO) -> None:
            length = part.getbuffer().nbytes
            checksum = checksums[number - 1]
            try:
                answer = await self._bucket.ask(
                    self._bucket.client.upload_part(
                        Bucket=self._bucket.name,
                        Key=self._key,
                        UploadId=upload,
                        PartNumber=number,
                        Body=part,
                        ChecksumSHA256=checksum,
                    )
                )
            finally:
                self._give_back(part, length)
                del part
            done[number] = {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}
            await self._note(length)

        try:
            async with create_task_group() as group, aclosing(self._parts()) as parts:
                number = 0
                async for part in parts:
                    number += 1
                    group.start_soon(send, number, part)
                    del part
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [done[number] for number in sorted(done)]

    async def _parts(self) -> AsyncGenerator[BytesIO, None]:
        """Yield the contents part by part, the last one only when they have ended; the taker gives the memory back."""
        left = self._size
        async with aclosing(self._chunks()) as chunks:
            reader = _Reader(chunks)
            while True:
                length = min(PART_BYTES, left)
                left -= length
                await self._memory.take(length)
                try:
                    part = await self._read(reader, length, is_last=not left)
                except BaseException:
                    self._memory.give_back(length)
                    raise
                yield part
                del part
                if not left:
                    return

    async def _read(self, reader: _Reader, length: int, *, is_last: bool) -> BytesIO:
        part = self._memory.spare.pop() if length == PART_BYTES and self._memory.spare else BytesIO()
        await reader.read(length, part)
        if part.getbuffer().nbytes < length or (is_last and await reader.has_more()):
            raise wrong_size(self._key, self._size)
        return part

    def _give_back(self, part: BytesIO, length: int) -> None:
        if length == PART_BYTES:
            self._memory.spare.append(part)
        self._memory.give_back(length)

    async def _create(self, request: Awaitable[object]) -> None:
        """Let the object appear, or find out that it has although the answer says otherwise or got lost."""
        try:
            await self._bucket.ask(request)
        except S3Error as exc:
            if exc.s3_code and exc.s3_code not in NOT_CREATED:
                raise
            mark = await self._found_mark()
            if mark is None:
                raise
            if mark != self._mark:
                raise taken(self._key) from None
        except asyncio.CancelledError:
            with CancelScope(shield=True):
                if await self._found_mark() == self._mark:
                    await self._bucket.ask(self._bucket.client.delete_object(Bucket=self._bucket.name, Key=self._key))
            raise

    async def _found_mark(self) -> str | None:
        """Who made the object under the key; None if there is none, or no answer."""
        with move_on_after(CLEANUP_TIMEOUT):
            try:
                found = await self._bucket.head(self._key)
            except S3Error:
                return None
            return None if found is None else found["Metadata"].get(MARK, "")
        return None

    async def _note(self, length: int) -> None:
        self._sent += length
        if self._stored is not None:
            await self._stored(self._sent)


class _Reader:
    """Cuts chunks of any size anew."""

    def __init__(self, chunks: AsyncGenerator[bytes | memoryview, None]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    async def read(self, length: int, part: BytesIO) -> None:
        """Make `part` hold the next `length` bytes, fewer at the end."""
        part.seek(0)
        while part.tell() < length and await self.has_more():
            written = part.write(self._rest[: length - part.tell()])
            self._rest = self._rest[written:] or memoryview(b"")  # an empty slice would hold its chunk
        part.truncate()
        part.seek(0)

    async def has_more(self) -> bool:
        while not self._rest:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return False
            self._rest = memoryview(chunk)
        return True


def _sha256(part: BytesIO) -> bytes:
    return hashlib.sha256(part.getbuffer()).digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
