"""The batch service: rules, codes and texts; what it reads and what it refuses to read."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from quarterdeck.storage.errors import DeckError, InvalidArgumentError, LimitError, NotFoundError
from quarterdeck.storage.objects.base import Reader
from quarterdeck.storage.objects.local import TURN_BYTES, LocalObjectStore
from quarterdeck.tools.uploads.service import MAX_FILE_BYTES, STORED_AT_ONCE, Report, UploadService
from quarterdeck.tools.uploads.sources import InlineSource
from tests.clock import ManualClock
from tests.contents import contents
from tests.ready import ready
from tests.until import until

STAMP = "2025-06-15T15-06-40"  # of the manual clock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The only folder that may be read; `tmp_path` around it may not."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalObjectStore]:
    opened = LocalObjectStore(tmp_path / "objects")
    yield opened
    await opened.close()


@pytest.fixture
def service(store: LocalObjectStore, root: Path) -> UploadService:
    return UploadService(ready(store), [root], ManualClock())


def inline(name: str, contents: bytes = b"x") -> InlineSource:
    return InlineSource(name, contents)


class Gated(InlineSource):
    """Goes on after its first piece once all its fellows have come that far."""

    def __init__(self, name: str, gate: threading.Barrier) -> None:
        super().__init__(name, b"first second")
        self._gate = gate

    def open(self) -> Reader:
        return contents(b"first ", self._second)()

    def _second(self) -> bytes:
        self._gate.wait(30)
        return b"second"


async def refusal(service: UploadService, path: str) -> str:
    """The whole text with which a lone file at `path` is refused."""
    with pytest.raises(DeckError) as failure:
        await service.upload([service.file(path)])
    assert failure.value.details["status"] == 500
    assert await service.list() == ([], None)
    return failure.value.message


async def test_all_stored(service: UploadService, root: Path) -> None:
    (root / "a.txt").write_bytes(b"alpha")
    (root / "empty.bin").write_bytes(b"")
    answer = await service.upload(
        [service.file(str(root / "a.txt")), service.file("empty.bin"), InlineSource("c.json", b"{}", "application/x")]
    )
    assert answer == {
        "success": True,
        "status": 200,
        "count": 3,
        "files": [
            {
                "originalName": name,
                "path": f"uploads/{STAMP}_{name}",
                "size": len(contents),
                "type": kind,
                "sha256": hashlib.sha256(contents).hexdigest(),
                "duration": 0.0,
            }
            for name, contents, kind in (
                ("a.txt", b"alpha", "text/plain"),
                ("empty.bin", b"", "application/octet-stream"),
                ("c.json", b"{}", "application/x"),
            )
        ],
    }
    assert await service.read(f"uploads/{STAMP}_a.txt", 1, 3) == b"lph"


async def test_some_failed(service: UploadService) -> None:
    answer = await service.upload([inline("a"), service.file("missing.txt"), inline("b")])
    assert answer["success"] is True
    assert answer["status"] == 207
    assert [file["originalName"] for file in answer["files"]] == ["a", "b"]
    assert answer.get("warnings") == ["Upload failed: missing.txt - no such file: missing.txt"]
    assert answer.get("message") == "2 uploaded, 1 failed"


async def test_all_failed(service: UploadService) -> None:
    with pytest.raises(DeckError) as failure:
        await service.upload([service.file("x"), service.file("y")])
    assert failure.value.message == "All uploads failed: x - no such file: x; y - no such file: y"
    assert failure.value.details == {
        "status": 500,
        "warnings": ["Upload failed: x - no such file: x", "Upload failed: y - no such file: y"],
    }


async def test_no_files(service: UploadService) -> None:
    with pytest.raises(InvalidArgumentError) as failure:
        await service.upload([])
    assert (failure.value.message, failure.value.details) == ("No files uploaded", {"status": 400})


async def test_one_file_too_many(service: UploadService) -> None:
    with pytest.raises(LimitError) as failure:
        await service.upload([inline(str(number)) for number in range(21)])
    assert (failure.value.message, failure.value.details) == ("Maximum 20 files allowed", {"status": 400})
    assert await service.list() == ([], None)


async def test_a_byte_too_many_stops_the_batch_before_it_starts(service: UploadService, root: Path) -> None:
    for name, size in (("fits", MAX_FILE_BYTES), ("big", MAX_FILE_BYTES + 1), ("bigger", MAX_FILE_BYTES * 2)):
        with (root / name).open("wb") as sparse:
            sparse.truncate(size)
    with pytest.raises(LimitError) as failure:
        await service.upload([inline("small"), *(service.file(name) for name in ("big", "fits", "bigger"))])
    assert failure.value.message == "Validation failed: File big exceeds 100MB limit, File bigger exceeds 100MB limit"
    assert failure.value.details == {"status": 400}
    assert await service.list() == ([], None)


async def test_exactly_the_limit_is_stored(service: UploadService, root: Path) -> None:
    with (root / "fits").open("wb") as sparse:
        sparse.truncate(MAX_FILE_BYTES)
    (file,) = (await service.upload([service.file("fits")]))["files"]
    assert file["size"] == MAX_FILE_BYTES


async def test_twenty_files_are_read_at_the_same_time(service: UploadService) -> None:
    gate = threading.Barrier(20)
    answer = await service.upload([Gated(f"{number}.txt", gate) for number in range(20)])
    assert answer["count"] == 20
    for file in answer["files"]:
        assert await service.read(file["path"], 0, 100) == b"first second"


async def test_large_files_take_turns(service: UploadService, root: Path) -> None:
    """None waits until those before it are stored as a whole."""
    for number in range(20):
        (root / str(number)).write_bytes(b"x" * (2 * TURN_BYTES))
    begun: set[float] = set()

    async def all_have_begun(stored: float, total: float) -> None:
        begun.add(stored)
        if stored <= total / 2:
            await until(lambda: 20 * TURN_BYTES in begun)

    answer = await service.upload([service.file(str(number)) for number in range(20)], all_have_begun)
    assert answer["status"] == 200


async def test_many_batches_share_the_places(service: UploadService) -> None:
    counting = threading.Lock()
    reading = most = 0

    class Counted(InlineSource):
        def open(self) -> Reader:
            nonlocal reading, most
            with counting:
                reading += 1
                most = max(most, reading)
            return super().open()

    async def wait_for_more(_stored: float, _total: float) -> None:
        nonlocal reading
        await until(lambda: most >= STORED_AT_ONCE)
        with counting:
            reading -= 1

    batches = [[Counted(f"{batch}-{number}", b"x") for number in range(20)] for batch in range(10)]
    answers = await asyncio.gather(*(service.upload(batch, wait_for_more) for batch in batches))
    assert [answer["count"] for answer in answers] == [20] * 10
    assert most == STORED_AT_ONCE


async def test_files_of_one_name_in_one_second_get_keys_of_their_own(service: UploadService) -> None:
    first = await service.upload([inline("a.txt", b"%d" % number) for number in range(3)])
    second = await service.upload([inline("a.txt", b"3")])
    paths = [file["path"] for file in first["files"] + second["files"]]
    assert paths == [f"uploads/{STAMP}_a{number}.txt" for number in ("", "_2", "_3", "_4")]
    assert [await service.read(path, 0, 10) for path in paths] == [b"0", b"1", b"2", b"3"]


async def test_two_servers_with_one_store_never_share_a_key(
    service: UploadService, store: LocalObjectStore, root: Path, tmp_path: Path
) -> None:
    other_store = LocalObjectStore(tmp_path / "objects")
    other = UploadService(ready(other_store), [root], ManualClock())
    gate = threading.Barrier(2)

    class OnceGated(Gated):
        """The one that loses the key starts again, alone."""

        def open(self) -> Reader:
            if self.started:
                return contents(b"second again")()
            self.started = True
            return super().open()

        started = False

    reports: tuple[list[float], list[float]] = ([], [])

    def reporter(taken: list[float]) -> Report:
        async def report(stored: float, _total: float) -> None:
            taken.append(stored)

        return report

    async with asyncio.timeout(30):
        answers = await asyncio.gather(
            *(
                door.upload([OnceGated("a.txt", gate)], reporter(taken))
                for door, taken in zip((service, other), reports, strict=True)
            )
        )
    paths = {file["path"] for answer in answers for file in answer["files"]}
    assert paths == {f"uploads/{STAMP}_a.txt", f"uploads/{STAMP}_a_2.txt"}
    assert {await service.read(path, 0, 100) for path in paths} == {b"first second", b"second again"}
    assert reports == ([12], [12])  # the loser's second try is no news
    await other_store.close()


async def test_progress_counts_bytes_and_ends_at_the_whole(service: UploadService, root: Path) -> None:
    (root / "large").write_bytes(b"x" * (3 * TURN_BYTES))
    reports: list[tuple[float, float]] = []

    async def report(stored: float, total: float) -> None:
        reports.append((stored, total))

    await service.upload([service.file("large"), inline("small", b"12345")], report)
    total = 3 * TURN_BYTES + 5
    assert len(reports) == 4
    assert [stored for stored, _ in reports] == sorted({stored for stored, _ in reports})
    assert reports[-1] == (total, total)
    assert {total for _, total in reports} == {total}


async def test_the_name_is_made_safe_and_reported_as_given(service: UploadService) -> None:
    answer = await service.upload([inline("../../etc/pass\0wd.txt"), inline("x" * 300 + ".txt"), inline("\udcff.txt")])
    assert [file["originalName"] for file in answer["files"]] == [
        "../../etc/pass\0wd.txt",
        "x" * 300 + ".txt",
        "\\udcff.txt",
    ]
    assert [file["path"] for file in answer["files"]] == [
        f"uploads/{STAMP}_pass_wd.txt",
        f"uploads/{STAMP}_{'x' * 146}.txt",
        f"uploads/{STAMP}__.txt",
    ]


async def test_a_file_name_that_is_no_utf_8(service: UploadService, root: Path) -> None:
    (root / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    (file,) = (await service.upload([service.file("caf\udce9.txt")]))["files"]
    assert file["originalName"] == "caf\\udce9.txt"
    assert file["path"] == f"uploads/{STAMP}_caf_.txt"


@pytest.mark.parametrize(
    "path", ["../secret", "{tmp}/secret", "~/secret", "link", "folder-link/secret", "dangling", "x/../../secret"]
)
async def test_nothing_outside_the_roots_is_read(
    service: UploadService, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder-link").symlink_to(tmp_path)
    (root / "dangling").symlink_to(tmp_path / "missing")
    text = await refusal(service, path.format(tmp=tmp_path))
    assert f"outside the folders that QUARTERDECK_UPLOAD_ROOTS allows ({root})" in text


async def test_a_path_may_start_at_the_home_folder(
    service: UploadService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    for name in ("a.txt", "~nobody-here"):  # that one is a plain name
        (root / name).write_bytes(b"x")
    answer = await service.upload([service.file(f"~/{root.name}/a.txt"), service.file("~nobody-here")])
    assert [file["originalName"] for file in answer["files"]] == ["a.txt", "~nobody-here"]


async def test_links_inside_the_roots_are_followed(service: UploadService, root: Path) -> None:
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "real.txt").write_bytes(b"real")
    (root / "link.txt").symlink_to("deep/er/real.txt")
    (file,) = (await service.upload([service.file("link.txt")]))["files"]
    assert file["originalName"] == "link.txt"
    assert await service.read(file["path"], 0, 10) == b"real"


async def test_a_link_swapped_in_after_the_check_is_not_followed(
    service: UploadService, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "folder").mkdir()
    (root / "folder" / "secret").write_bytes(b"harmless")
    checked = os.path.realpath

    def swap_after_the_check(path: Path) -> str:
        resolved = checked(path)
        if not (root / "folder").is_symlink():
            (root / "folder" / "secret").unlink()
            (root / "folder").rmdir()
            (root / "folder").symlink_to(tmp_path)
        return resolved

    monkeypatch.setattr(os.path, "realpath", swap_after_the_check)
    assert "cannot be read" in await refusal(service, "folder/secret")


async def test_the_second_root_is_allowed_too(store: LocalObjectStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a").write_bytes(b"a")
    service = UploadService(ready(store), [root, tmp_path / "other"], ManualClock())
    assert (await service.upload([service.file(str(tmp_path / "other" / "a"))]))["count"] == 1


async def test_without_roots_no_path_is_read(store: LocalObjectStore, root: Path) -> None:
    (root / "a").write_bytes(b"a")
    service = UploadService(ready(store), [], ManualClock())
    assert "set QUARTERDECK_UPLOAD_ROOTS" in await refusal(service, str(root / "a"))


async def test_what_is_no_regular_file_is_refused(service: UploadService, root: Path) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")  # an open that waits for a writer would never end
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        for path in ("folder", "fifo", "."):
            assert "not a regular file" in await refusal(service, path)
        assert "cannot be read" in await refusal(service, "socket")


async def test_a_device_is_refused(store: LocalObjectStore) -> None:
    service = UploadService(ready(store), [Path("/dev")], ManualClock())
    assert "zero - not a regular file" in await refusal(service, "/dev/zero")


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 300, "x/" * 3000, ""])
async def test_what_is_no_path_is_refused(service: UploadService, path: str) -> None:
    assert (await refusal(service, path)).startswith("All uploads failed: ")


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, 100)


def vanish(path: Path) -> None:
    path.unlink()


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"different")
    os.utime(path, ns=(0, 0))  # a coarse clock might not tell


@pytest.mark.parametrize("change", [grow, shrink, rewrite, vanish])
async def test_a_file_that_changes_while_it_is_read_fails_alone(
    service: UploadService, root: Path, change: Callable[[Path], None]
) -> None:
    (root / "changing").write_bytes(b"x" * (2 * TURN_BYTES))
    changed = asyncio.Event()

    async def report(stored: float, _total: float) -> None:
        if stored >= TURN_BYTES and not changed.is_set():  # the first half of it is stored
            change(root / "changing")
            changed.set()

    answer = await service.upload([service.file("changing"), inline("beside")], report)
    assert changed.is_set()
    assert answer.get("warnings") == [
        "Upload failed: changing - changed while it was read; upload it again when nothing writes to it"
    ]
    stored, _ = await service.list()
    assert [info.name for info in stored] == ["beside"]


async def test_a_file_that_vanishes_before_it_is_read_fails(service: UploadService, root: Path) -> None:
    (root / "a").write_bytes(b"a")
    source = service.file("a")
    assert await source.prepare() == (1, b"a")
    (root / "a").unlink()
    with pytest.raises(NotFoundError, match="no such file: a"):
        source.open()


async def test_a_cancelled_batch_stores_nothing(service: UploadService) -> None:
    begun = asyncio.Event()

    async def report(_stored: float, _total: float) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(service.upload([inline("a")], report))
    async with asyncio.timeout(30):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await service.list() == ([], None)
    assert (await service.upload([inline("a")]))["files"][0]["path"] == f"uploads/{STAMP}_a"


async def test_lists_go_page_by_page_in_order_of_time(store: LocalObjectStore, root: Path) -> None:
    clock = ManualClock()
    service = UploadService(ready(store), [root], clock)
    paths: list[str] = []
    for name in ("z", "y", "x", "w", "v"):
        paths += [file["path"] for file in (await service.upload([inline(name)]))["files"]]
        clock.advance(1)
    first, cursor = await service.list(limit=2)
    second, cursor = await service.list(limit=2, cursor=cursor)
    third, end = await service.list(limit=2, cursor=cursor)
    assert [info.key for page in (first, second, third) for info in page] == paths
    assert end is None
    assert [info.created_at for info in first] == [1_750_000_000_000, 1_750_000_001_000]
    page, end = await service.list(prefix="uploads/2025-06-15T15-06-4", limit=5)
    assert (len(page), end) == (5, None)
    with pytest.raises(InvalidArgumentError, match="every upload's key starts with 'uploads/'"):
        await service.list(prefix="up")


async def test_what_others_have_put_there_is_not_listed_and_stops_no_list(
    service: UploadService, store: LocalObjectStore
) -> None:
    """Such as the objects of folders in an S3 bucket."""
    (file,) = (await service.upload([inline("a")]))["files"]
    for key in ("uploads/0/a", "uploads/1/a", "uploads/9/a"):
        await store.put(key, inline("a").open, size=1, name="a", content_type="text/plain", created_at=1)
    listed: list[str] = []
    page, cursor = await service.list(limit=1)
    while cursor is not None:
        listed += [info.key for info in page]
        page, cursor = await service.list(limit=1, cursor=cursor)
    assert [*listed, *(info.key for info in page)] == [file["path"]]


async def test_a_deleted_upload_is_gone(service: UploadService) -> None:
    (file,) = (await service.upload([inline("a")]))["files"]
    await service.delete(file["path"])
    for call in (service.delete(file["path"]), service.stat(file["path"]), service.read(file["path"], 0, 1)):
        with pytest.raises(NotFoundError, match="`uploads` with action list"):
            await call


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a",
        "/uploads/a",
        "uploads/../a",
        "uploads/",
        "uploads/.",
        "uploads/..",
        "uploads/a/b",
        "uploads/a\0",
        "\udcff",
    ],
)
async def test_keys_that_are_no_upload_are_refused(service: UploadService, key: str) -> None:
    """Without asking the store: an S3 server can have an object `uploads/`, its folder."""
    for call in (service.delete(key), service.stat(key), service.read(key, 0, 1)):
        with pytest.raises(InvalidArgumentError):
            await call
