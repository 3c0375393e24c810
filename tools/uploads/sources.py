"""Where uploads come from: a file under the allowed folders, or contents in the call itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from io import BytesIO, FileIO
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread

from quarterdeck.storage.errors import DeckError, DeniedError, InvalidArgumentError, NotFoundError
from quarterdeck.storage.objects.base import Reader

from .naming import printable
from .types import TYPE_BYTES

T = TypeVar("T")
Args = TypeVarTuple("Args")

THREADS = 8  # blocking file operations at once

# Never wait for the writer of a fifo, never follow a link that was swapped in after the check.
_FILE = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_FOLDER = _FILE | getattr(os, "O_DIRECTORY", 0)


class Prepared(NamedTuple):
    """What is known of a file before it is stored: its size in bytes, and the first of them."""

    size: int
    start: bytes


class Source(Protocol):
    """One file to be uploaded. `name` is what its giver calls it, `content_type` what they say it is."""

    name: str
    content_type: str | None

    async def prepare(self) -> Prepared:
        """Check that it can be read; comes before `open`.

        Raises:
            DeckError: it cannot; the text is the reason.
        """
        ...

    def open(self) -> Reader:
        """Open the contents, exactly as many bytes as `prepare` found; a second call starts again. It blocks.

        Raises:
            DeckError: it cannot be read any more, or, while it is read: it has changed since.
        """
        ...


class InlineSource:
    """Contents that came with the call."""

    def __init__(self, name: str, contents: bytes, content_type: str | None = None) -> None:
        self.name = name
        self.content_type = content_type
        self._contents = contents

    async def prepare(self) -> Prepared:
        return Prepared(len(self._contents), self._contents[:TYPE_BYTES])

    def open(self) -> Reader:
        return BytesIO(self._contents)


class Roots:
    """The folders that paths may lead to, after all symbolic links."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [Path(os.path.realpath(folder)) for folder in folders]
        self._threads = CapacityLimiter(THREADS)

    def open(self, path: str) -> FileIO:
        """Open a regular file; a relative path starts at the first folder, one with `~` at a home folder.

        Raises:
            DeniedError: it leads out of the folders, or none is allowed.
            NotFoundError, InvalidArgumentError: there is none, or it is not a regular file that can be read.
        """
        if not self._folders:
            raise DeniedError("no folder may be read: set QUARTERDECK_UPLOAD_ROOTS, or send the content inline")
        try:
            given = os.path.expanduser(path)  # noqa: PTH111  that of Path raises where there is no such home
            target = Path(os.path.realpath(self._folders[0] / given))
            root = next((folder for folder in self._folders if target.is_relative_to(folder)), None)
            if root is None:
                allowed = ", ".join(printable(str(folder)) for folder in self._folders)
                raise DeniedError(f"outside the folders that QUARTERDECK_UPLOAD_ROOTS allows ({allowed})")
            opened = _open_beneath(root, target.relative_to(root).parts)
        except FileNotFoundError:
            raise NotFoundError(f"no such file: {printable(path)}") from None
        except OSError as exc:
            raise InvalidArgumentError(f"cannot be read: {exc.strerror}") from exc
        except ValueError:
            raise InvalidArgumentError(f"not a path: {path!r}") from None
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise InvalidArgumentError("not a regular file")
        return FileIO(opened)

    async def run(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """Do blocking work on a file in a thread."""
        try:
            return await to_thread.run_sync(work, *args, limiter=self._threads)
        except OSError as exc:
            raise _unreadable(exc) from exc


class PathSource:
    """A file under one of the roots. It is opened only while it is read, so that many can wait."""

    def __init__(self, roots: Roots, path: str, content_type: str | None = None) -> None:
        self.name = PurePath(path).name or path
        self.content_type = content_type
        self._roots = roots
        self._path = path
        self._size = 0
        self._version: _Version | None = None

    async def prepare(self) -> Prepared:
        def look() -> tuple[os.stat_result, bytes]:
            with self._roots.open(self._path) as file:
                return os.fstat(file.fileno()), file.read(TYPE_BYTES)

        found, start = await self._roots.run(look)
        self._size, self._version = found.st_size, _version(found)
        return Prepared(self._size, start)

    def open(self) -> Reader:
        assert self._version is not None, "prepare comes first"  # noqa: S101
        return _Unchanging(self._roots.open(self._path), self._size, self._version)


_Version = tuple[int, int, int, int, bool]


def _version(found: os.stat_result) -> _Version:
    """What differs once a file was written to, replaced or deleted."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_nlink > 0


class _Unchanging:
    """Reads a file that must still be, and stay until its end, what it was when it was looked at."""

    def __init__(self, file: FileIO, size: int, version: _Version) -> None:
        self._file = file
        self._left = size
        self._version = version

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            length = self._file.readinto(buffer[: self._left])
            self._left -= length
            if not length and (self._left or _version(os.fstat(self._file.fileno())) != self._version):
                raise DeckError("changed while it was read; upload it again when nothing writes to it")
        except OSError as exc:
            raise _unreadable(exc) from exc
        return length

    def close(self) -> None:
        self._file.close()


def _unreadable(exc: OSError) -> DeckError:
    return DeckError(f"cannot be read: {exc.strerror}")


def _open_beneath(root: Path, parts: Sequence[str]) -> int:
    """Open `root/parts` step by step, each without following a link, where the system can."""
    if os.open not in os.supports_dir_fd:
        return os.open(root.joinpath(*parts), _FILE)
    opened = os.open(root, _FOLDER)
    for number, part in enumerate(parts, 1):
        try:
            deeper = os.open(part, _FILE if number == len(parts) else _FOLDER, dir_fd=opened)
        finally:
            os.close(opened)
        opened = deeper
    return opened
