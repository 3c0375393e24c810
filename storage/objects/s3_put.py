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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from anyio import CancelScope, CapacityLimiter, create_task_group, move_on_after, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from .base import BUFFER_BYTES, Contents, Reader, Stored, taken, wrong_size
from .budget import MemoryBudget
from .s3_bucket import S3Bucket, S3Error

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

T = TypeVar("T")
Args = TypeVarTuple("Args")

PART_BYTES = 8 << 20
CLEANUP_TIMEOUT = 10.0  # seconds
LAST_TIMEOUT = 2.0  # seconds for the request of a put that is cancelled
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
        threads: CapacityLimiter,
        left_over: LeftOver,
        *,
        key: str,
        contents: Contents,
        size: int,
        content_type: str,
        metadata: dict[str, str],
        stored: Stored | None,
    ) -> None:
        self._bucket = bucket
        self._memory = memory
        self._threads = threads
        self._left_over = left_over
        self._key = key
        self._contents = contents
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
        part = await self._take(self._size)
        try:
            digest = await self._run(self._load, part)
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

    def _load(self, part: BytesIO) -> bytes:
        """Read all into `part`; its SHA-256."""
        with closing(self._contents()) as reader, part.getbuffer() as whole:
            self._fill(whole, reader)
            self._check_end(reader)
            return hashlib.sha256(whole).digest()

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
        buffer = memoryview(bytearray(BUFFER_BYTES))

        def measure(length: int) -> None:
            part = hashlib.sha256()
            for left in range(length, 0, -BUFFER_BYTES):
                piece = buffer[:left]
                self._fill(piece, reader)
                whole.update(piece)
                part.update(piece)
            checksums.append(_base64(part.digest()))

        with closing(await self._run(self._contents)) as reader:
            for length in self._lengths():
                await self._run(measure, length)
            await self._run(self._check_end, reader)
        return whole.hexdigest(), checksums

    async def _send(self, upload: str, checksums: Sequence[str]) -> Sequence[CompletedPartTypeDef]:
        """Upload all parts side by side. A part that is not what was measured is refused by the server."""
        done: dict[int, CompletedPartTypeDef] = {}

        async def send(number: int, part: BytesIO, length: int) -> None:
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

        def load(part: BytesIO) -> None:
            with part.getbuffer() as whole:
                self._fill(whole, reader)

        try:
            async with create_task_group() as group:
                with closing(await self._run(self._contents)) as reader:
                    for number, length in enumerate(self._lengths(), 1):
                        part = await self._take(length)
                        try:
                            await self._run(load, part)
                        except BaseException:
                            self._give_back(part, length)
                            raise
                        group.start_soon(send, number, part, length)
                        del part  # not to be held while the next one waits for memory
                    await self._run(self._check_end, reader)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [done[number] for number in sorted(done)]

    def _lengths(self) -> Sequence[int]:
        """Of the parts."""
        return [min(PART_BYTES, self._size - start) for start in range(0, self._size, PART_BYTES)]

    def _fill(self, buffer: memoryview, reader: Reader) -> None:
        while buffer:
            length = reader.readinto(buffer)
            if not length:
                raise wrong_size(self._key, self._size)
            buffer = buffer[length:]

    def _check_end(self, reader: Reader) -> None:
        if reader.readinto(memoryview(bytearray(1))):
            raise wrong_size(self._key, self._size)

    async def _run(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """Do blocking work in a thread. Whoever was cancelled meanwhile goes no further."""
        done = await to_thread.run_sync(work, *args, limiter=self._threads)
        await checkpoint_if_cancelled()
        return done

    async def _take(self, length: int) -> BytesIO:
        """A buffer of that length, as soon as there is memory for it; whoever takes it gives it back."""
        await self._memory.take(length)
        if length == PART_BYTES and self._memory.spare:
            return self._memory.spare.pop()
        return BytesIO(bytes(length))

    def _give_back(self, part: BytesIO, length: int) -> None:
        if length == PART_BYTES:
            part.seek(0)
            self._memory.spare.append(part)
        self._memory.give_back(length)

    async def _create(self, request: Awaitable[object]) -> None:
        """Let the object appear, or find out that it has although the answer says otherwise or got lost."""
        creating = asyncio.ensure_future(self._bucket.ask(request))
        try:
            await asyncio.shield(creating)
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
                with move_on_after(LAST_TIMEOUT):  # what is cut off on its way could still appear after a look
                    await asyncio.gather(creating, return_exceptions=True)
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


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
