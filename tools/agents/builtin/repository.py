"""A git repository of the deck's own, worked with the real `git`: no shell, and nothing of the user's configuration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..worker.task import PromptError, Task
from .exports import chosen_stores, file_name, lock, write_lines
from .stores import Record, canonical

NAME, EMAIL = "Quarterdeck", "quarterdeck@localhost"
ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
SETTINGS = (
    f"user.name={NAME}",
    f"user.email={EMAIL}",
    "gc.autoDetach=false",  # nothing goes on after the command has ended
    "maintenance.autoDetach=false",
)
LOCKS = ("index.lock", "HEAD.lock", "config.lock", "refs/heads/main.lock")


class Repository:
    """Raises PromptError where git is missing or fails; the text is git's."""

    def __init__(self, folder: Path) -> None:
        """Opens the repository in the folder, made if it is not there. Whoever does has the folder to himself."""
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in LOCKS:  # left by one that was killed
            (folder / ".git" / name).unlink(missing_ok=True)
        self._git("init", "--quiet", "--initial-branch=main", "--template=")

    @property
    def head(self) -> str | None:
        """The id of the last commit."""
        found = self._run("rev-parse", "--verify", "--quiet", "HEAD")
        return found.stdout.strip() or None

    def commit(self, paths: Sequence[str], message: str) -> bool:
        """Commit these files, or do nothing and return False if they are as they were."""
        self._git("add", "--", *paths)
        if self._run("diff", "--cached", "--quiet").returncode == 0:
            return False
        self._git("commit", "--quiet", f"--message={message}")
        return True

    def _git(self, *arguments: str) -> None:
        done = self._run(*arguments)
        if done.returncode != 0:
            said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise PromptError(f"git {arguments[0]} failed: {said[:500]}")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = [part for setting in SETTINGS for part in ("-c", setting)]
        places = [f"--git-dir={self._folder / '.git'}", f"--work-tree={self._folder}"]
        try:
            return subprocess.run(
                ["git", *settings, *places, *arguments],  # noqa: S607  the user's git, wherever it is
                cwd=self._folder,
                env={**ENVIRONMENT, "PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except FileNotFoundError:
            raise PromptError("git is not installed, or not on the PATH of the deck's server: install it") from None


def git_integration(task: Task) -> dict[str, Any]:
    """Export `namespaces` and `collections` as JSON lines into this type's git repository and commit them.

    A line is `{"content", "key"}`, the same bytes for the same content, in the order of the keys; files of other
    stores stay as they are. Returns `{repository, committed, commit, message, files: [{file, records, bytes}]}`:
    without a change nothing is committed, and `commit` is the last one, or null.
    """
    stores = chosen_stores(task)
    if not stores:
        raise PromptError("git_integration needs namespaces, collections or both: lists of names")
    folder = Path(task.agent.folder)
    with lock(folder):
        place = folder / "exports"
        repository = Repository(place)
        files: list[dict[str, Any]] = []
        for store in stores:
            name = file_name(store)
            written = write_lines(task, place / name, store, _line)
            files.append({"file": name, "records": written["records"], "bytes": written["bytes"]})
        message = task.prompt.get("message") or f"Export {', '.join(file['file'] for file in files)}"
        committed = repository.commit([file["file"] for file in files], message)
        head = repository.head
    return {
        "repository": str(place),
        "committed": committed,
        "commit": head,
        "message": message if committed else "nothing has changed since the last commit",
        "files": files,
    }


def _line(record: Record) -> str:
    return canonical({"key": record.key, "content": record.content})
