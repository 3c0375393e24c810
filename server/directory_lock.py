"""Who uses the files of a deck: servers share them, a restore has them alone.

The locks are the kernel's and end with their process, however that ends. Windows has none of this kind; there the open
files themselves are in the way of a restore.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from quarterdeck.storage.errors import ConflictError

RESTORING = ".restoring"  # in the data directory while a restore moves files, and after one that was cut off


def lock_files(data_dir: Path, memory: Path | None) -> list[Path]:
    """The locks of a data directory and of a memory file elsewhere, which other data directories may share."""
    locks = [data_dir / ".lock"]
    if memory is not None and memory.parent.resolve() != data_dir.resolve() and memory.parent.is_dir():
        locks.append(memory.with_name(f".{memory.name}.lock"))
    return locks


@contextmanager
def shared(data_dir: Path, memory: Path | None) -> Generator[None]:
    """Use the files beside others.

    Raises:
        ConflictError: they are being restored, or were when the restore was cut off.
    """
    with _locked(lock_files(data_dir, memory), exclusive=False) as taken:
        if taken:
            raise ConflictError(f"{taken.parent} is being restored from a backup: try again when that has ended")
        if (data_dir / RESTORING).exists():
            raise ConflictError(
                f"{data_dir}: a restore was cut off: run `quarterdeck restore` again; what was there is in "
                f"{(data_dir / RESTORING).read_text(encoding='utf-8')}"
            )
        yield


@contextmanager
def exclusive(data_dir: Path, memory: Path | None) -> Generator[None]:
    """Have the files alone.

    Raises:
        ConflictError: somebody uses them.
    """
    with _locked(lock_files(data_dir, memory), exclusive=True) as taken:
        if taken:
            raise ConflictError(f"{taken.parent} is in use: close the clients whose servers use it, and try again")
        yield


@contextmanager
def _locked(files: Sequence[Path], *, exclusive: bool) -> Generator[Path | None]:
    """The file whose lock somebody else has, or None if all are ours now."""
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    with ExitStack() as stack:
        for file in files:
            descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                yield file
                return
        yield None
