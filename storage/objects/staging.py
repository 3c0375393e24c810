"""Where a local store writes what is not finished yet: one folder a process, swept once that process is dead."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":  # folders cannot be locked there: leftovers stay, but are never seen as objects

    @contextmanager
    def _gate(parent: Path) -> Generator[None]:  # noqa: ARG001
        yield

    def _lock(folder: Path) -> int | None:  # noqa: ARG001
        return None

    def sync_folder(folder: Path) -> None:
        """Folders need no sync of their own there."""

else:
    import fcntl

    @contextmanager
    def _gate(parent: Path) -> Generator[None]:
        """Let one process at a time sweep and claim: a claimed folder is never seen without its lock."""
        gate = os.open(parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield
        finally:
            os.close(gate)

    def _lock(folder: Path) -> int | None:
        """Take the lock that its process holds as long as it lives; None if another one has it."""
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def sync_folder(folder: Path) -> None:
        """Make what was created, renamed or removed in `folder` durable."""
        opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


class Staging:
    """Hands out paths that nobody else uses, on the file system of `parent`."""

    def __init__(self, parent: Path) -> None:
        """Sweep what dead processes left behind, then claim a folder.

        Raises:
            OSError: `parent` cannot be used.
        """
        self._parent = parent
        parent.mkdir(mode=0o700, exist_ok=True)
        with _gate(parent):
            for folder in parent.iterdir():
                lock = _lock(folder)
                if lock is not None:
                    shutil.rmtree(folder)
                    os.close(lock)
            self._folder = parent / uuid.uuid4().hex
            self._folder.mkdir(mode=0o700)
            self._held = _lock(self._folder)

    def path(self) -> Path:
        """A path where nothing is yet."""
        return self._folder / uuid.uuid4().hex

    def close(self) -> None:
        """Remove the folder with whatever is in it."""
        with _gate(self._parent):
            shutil.rmtree(self._folder, ignore_errors=True)
            if self._held is not None:
                os.close(self._held)
                self._held = None
