"""Uploads through the whole server: into a real S3 store beside `s5cmd`, behind a delay, and locally beside `cp`.

We hash every byte (SHA-256) and have what arrived compared; `cp` hashes nothing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter

import psutil

from quarterdeck.storage.objects.s3_location import REGION
from tests.servers.seaweed import ACCESS_KEY, SECRET_KEY, SeaweedServer

from .measure import DECK, Figure, median_ratio
from .raw_client import RawClient, ServerFailedError

KB, MB = 1_000, 1 << 20
ONE_WAY = 0.05  # seconds that the proxy adds in each direction
TURNS = 7
FEW_TURNS = 2  # of batches of 400 MB
MEMORY = 100 * MB
S5CMD_TARGET, CP_TARGET, SEQUENTIAL_TARGET = 0.9, 1.3, 0.1


@dataclass(frozen=True, slots=True)
class _Batch:
    """Files of random bytes in a folder of their own."""

    files: Sequence[Path]
    shown: str
    turns: int


def measure(folder: Path) -> list[Figure]:
    """Seconds of a batch, and the memory of the server while it stores the largest one."""
    small = _batch(folder, 20, 100 * KB, "20 x 100 KB", TURNS)
    middle = _batch(folder, 20, MB, "20 x 1 MB", TURNS)
    large = _batch(folder, 4, 100 * MB, "4 x 100 MB", FEW_TURNS)
    largest = _batch(folder, 20, 100 * MB, "20 x 100 MB", 1)
    return [*_into_s3(folder, small, middle, large, largest), *_into_a_folder(folder, middle, large)]


def _into_s3(folder: Path, small: _Batch, middle: _Batch, large: _Batch, largest: _Batch) -> Iterator[Figure]:
    with closing(SeaweedServer()) as server:
        bucket = server.new_bucket()
        with _delayed(server.port) as port, _deck(folder, _settings(server, bucket, port)) as deck:
            _upload(deck, small.files)  # opens the store and its connections
            together, alone = _in_turns(
                small, lambda: _upload(deck, small.files), lambda: sum(_upload(deck, [file]) for file in small.files)
            )
        what = f"upload {small.shown}, 100 ms away"
        yield _figure(what, together, alone, "one by one", SEQUENTIAL_TARGET)
        yield _figure(what, together, [1.0] * len(together), "1 s", 1.0)
        with _deck(folder, _settings(server, bucket, server.port)) as deck:
            _upload(deck, small.files[:1])
            yield _memory(deck, largest)
            for batch in (middle, large):
                times = _in_turns(
                    batch,
                    lambda batch=batch: _upload(deck, batch.files),
                    lambda batch=batch: _s5cmd(server, bucket, batch.files),
                )
                yield _figure(f"upload {batch.shown} into S3", *times, "s5cmd cp", S5CMD_TARGET)


def _into_a_folder(folder: Path, *batches: _Batch) -> Iterator[Figure]:
    copies = count()
    with _deck(folder, {}) as deck:
        for batch in batches:
            times = _in_turns(
                batch,
                lambda batch=batch: _upload_and_delete(deck, batch.files),
                lambda batch=batch: _cp(batch.files, folder / f"copies-{next(copies)}"),
            )
            yield _figure(f"upload {batch.shown} into a folder", *times, "cp and fsync", CP_TARGET)


def _batch(folder: Path, number: int, size: int, shown: str, turns: int) -> _Batch:
    files: list[Path] = []
    for each in range(number):
        file = folder / "files" / shown.replace(" ", "") / f"{each}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(size))
        files.append(file)
    return _Batch(files, shown, turns)


def _settings(server: SeaweedServer, bucket: str, port: int) -> dict[str, str]:
    return {
        "QUARTERDECK_OBJECTS_URL": f"s3://{bucket}?endpoint=http://127.0.0.1:{port}",
        "MINIO_ACCESS_KEY": ACCESS_KEY,
        "MINIO_SECRET_KEY": SECRET_KEY,
    }


def _deck(folder: Path, settings: Mapping[str, str]) -> RawClient:
    places = {"QUARTERDECK_DATA_DIR": str(folder / "data"), "QUARTERDECK_UPLOAD_ROOTS": str(folder / "files")}
    return RawClient(DECK, "modern", environment={**places, **settings}, errors=folder / "stderr")


def _upload(deck: RawClient, files: Sequence[Path]) -> float:
    began = perf_counter()
    answer = deck.call("upload", files=[{"path": str(file)} for file in files])
    if answer["count"] != len(files):
        raise ServerFailedError(f"not all were stored: {answer['warnings']}")
    return perf_counter() - began


def _upload_and_delete(deck: RawClient, files: Sequence[Path]) -> float:
    """As `_cp` does: a system hands out pages that were freed just now for less than new ones."""
    seconds = _upload(deck, files)
    for upload in deck.call("uploads", action="list")["uploads"]:
        deck.call("uploads", action="delete", key=upload["key"])
    return seconds


def _s5cmd(server: SeaweedServer, bucket: str, files: Sequence[Path]) -> float:
    command = [Path(sysconfig.get_path("scripts")) / "s5cmd", "--endpoint-url", f"http://127.0.0.1:{server.port}"]
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}
    return _run([*command, "cp", f"{files[0].parent}/*", f"s3://{bucket}/copies/"], {**os.environ, **keys})


def _cp(files: Sequence[Path], target: Path) -> float:
    target.mkdir()
    seconds = _run(["cp", *files, target]) + _run(["sync", *(target / file.name for file in files), target])
    for file in files:
        (target / file.name).unlink()
    return seconds


def _run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> float:
    began = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return perf_counter() - began


def _in_turns(batch: _Batch, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[list[float], list[float]]:
    pairs = [(ours(), theirs()) for _ in range(batch.turns)]
    return [our for our, _ in pairs], [their for _, their in pairs]


def _memory(deck: RawClient, batch: _Batch) -> Figure:
    """How far the resident memory of the server rises above what it has when it rests."""
    server = psutil.Process(deck.pid)
    idle = peak = server.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, server.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _upload(deck, batch.files)
    finally:
        done.set()
        watcher.join()
    rise = peak - idle
    return Figure(
        f"memory above idle, {batch.shown} into S3", f"{rise / MB:.0f} MB", "100 MB", "the bound", rise / MEMORY, 1.0
    )


@contextmanager
def _delayed(upstream: int) -> Generator[int]:
    """The port of a proxy in a process of its own."""
    command = [sys.executable, "-m", "tests.servers.proxy", str(upstream), str(ONE_WAY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            yield int(proxy.stdout.readline())
        finally:
            proxy.kill()


def _figure(measure: str, ours: Sequence[float], theirs: Sequence[float], peer: str, target: float) -> Figure:
    return Figure(measure, _seconds(ours), _seconds(theirs), peer, median_ratio(ours, theirs), target)


def _seconds(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} s"
