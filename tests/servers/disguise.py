"""A server that takes this machine for another system.

What the other system lacks is taken away, as far as the standard library and psutil can do without it here; third-party
packages are loaded before, for theirs is another code there.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Literal, NoReturn

System = Literal["win32", "darwin"]

ROOMS = ("quarterdeck.storage", "quarterdeck.tools", "quarterdeck.server")
SERVING = ("quarterdeck.server.serve", "quarterdeck.storage.vectors.faiss")
LINUX_ONLY = "quarterdeck.tools.agents.worker.supervisor"  # a program of its own, which is_supported() asks for

POSIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios")
POSIX_NAMES = (
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "copy_file_range", "fchmod", "fchown"),
    *("fdatasync", "fork", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getuid", "killpg", "mkfifo"),
    *("posix_fadvise", "posix_fallocate", "pread", "preadv", "pwrite", "sendfile", "setsid", "statvfs", "sync"),
    *("uname", "wait3", "wait4"),
)
POSIX_SIGNALS = ("SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGSTOP", "SIGTSTP", "SIGUSR2", "SIGXFSZ")
LINUX_NAMES = ("copy_file_range", "fdatasync", "memfd_create", "posix_fadvise", "posix_fallocate")


def modules() -> Iterator[str]:
    """Every module of the three rooms but the programs."""
    for room in ROOMS:
        yield room
        for found in pkgutil.walk_packages(import_module(room).__path__, f"{room}."):
            if not found.name.endswith("__main__"):
                yield found.name


def disguise(system: System, used: Iterable[str] = SERVING) -> None:
    """Take away what the other system lacks, and forget those of our modules that have seen it; `used` are loaded
    before, with what they need."""
    for name in used:
        import_module(name)
    for name in [name for name in sys.modules if name.startswith("quarterdeck")]:
        del sys.modules[name]
    sys.platform = system
    if system == "darwin":
        remove(os, LINUX_NAMES)
    else:
        for name in POSIX_MODULES:
            sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
        remove(os, POSIX_NAMES)
        os.supports_dir_fd.clear()
        setattr(signal, "SIGBREAK", signal.SIGUSR1)  # noqa: B010  which no type checker knows here
    processes = import_module("quarterdeck.tools.agents.processes")
    setattr(processes, "_children", no_proc)  # noqa: B010
    setattr(processes, "_run_time", lambda _: 0)  # type: ignore[misc]  # noqa: B010


def no_proc(_: int) -> NoReturn:
    raise FileNotFoundError("/proc")


def remove(module: object, names: Iterable[str]) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def import_everything() -> int:
    """Import every module as on macOS and then as on Windows, signals taken away too; returns how many."""
    disguise("darwin", modules())
    names = [name for name in modules() if name != LINUX_ONLY]
    disguise("win32", names)
    remove(signal, POSIX_SIGNALS)
    for name in names:
        import_module(name)
    return len(names)


def disguised(system: System, folder: Path) -> dict[str, str]:
    """The environment in which a server starts in disguise: the interpreter runs the module in `folder` first. (Its
    workers do not: they get no such variable.)"""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"from tests.servers.disguise import disguise\ndisguise({system!r})\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(__file__).parents[2])])}
