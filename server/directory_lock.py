"""Who uses a data directory: servers share it, a restore has it alone.

The lock is the kernel's and ends with its process, however that ends. Windows has none of this kind; there the open
files themselves are in the way of a restore.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from quarterdeck.storage.errors import ConflictError

LOCK_FILE = ".lock"


@contextmanager
def shared(data_dir: Path) -> Generator[None]:
    """Use the directory beside others.

    Raises:
        ConflictError: it is being restored.
    """
    with _locked(data_dir, exclusive=False) as got:
        if not got:
            raise ConflictError(f"{data_dir} is being restored from a backup: try again when that has ended")
        yield


@contextmanager
def exclusive(data_dir: Path) -> Generator[None]:
    """Have the directory alone.

    Raises:
        ConflictError: somebody uses it.
    """
    with _locked(data_dir, exclusive=True) as got:
        if not got:
            raise ConflictError(f"{data_dir} is in use: close the clients whose servers use it, and try again")
        yield


@contextmanager
def _locked(data_dir: Path, *, exclusive: bool) -> Generator[bool]:
    if sys.platform == "win32":
        yield True
        return
    import fcntl

    descriptor = os.open(data_dir / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
