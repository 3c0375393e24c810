"""The local object store's own business: files, modes, and what other processes leave behind."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from quarterdeck.storage.errors import ConflictError, StorageError, UnsupportedError
from quarterdeck.storage.objects.base import ObjectInfo
from quarterdeck.storage.objects.local import LocalObjectStore
from tests.contents import contents


async def put(store: LocalObjectStore, key: str, *parts: bytes) -> ObjectInfo:
    size = sum(map(len, parts))
    return await store.put(key, contents(*parts), size=size, name=key, content_type="text/plain", created_at=0)


def drafts(root: Path) -> list[Path]:
    return [path for path in (root / ".staging").rglob("*") if path.name == "contents"]


async def test_only_the_owner_can_look(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path / "objects")
    await put(store, "uploads/a", b"x")
    paths = [tmp_path / "objects", *(tmp_path / "objects").rglob("*")]
    assert {"uploads~a", "contents", "about.json"} <= {path.name for path in paths}
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    await store.close()


async def test_objects_outlive_the_store(tmp_path: Path) -> None:
    first = LocalObjectStore(tmp_path)
    info = await put(first, "uploads/a", b"kept")
    await first.close()
    second = LocalObjectStore(tmp_path)
    assert await second.list("", "", 10) == [info]
    assert await second.read("uploads/a", 0, 10) == b"kept"
    await second.close()
    assert list((tmp_path / ".staging").iterdir()) == []


async def test_opening_a_second_store_spares_what_the_first_is_writing(tmp_path: Path) -> None:
    first = LocalObjectStore(tmp_path)
    opened_second = threading.Event()

    def open_second() -> bytes:
        opened_second.set()
        second = LocalObjectStore(tmp_path)
        assert drafts(tmp_path) != []
        asyncio.run(second.close())
        return b"after"

    await first.put("k", contents(b"before ", open_second), size=12, name="n", content_type="t/t", created_at=0)
    assert opened_second.is_set()
    assert await first.read("k", 0, 100) == b"before after"
    await first.close()


async def test_a_taken_key_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    await put(store, "k", b"x")
    read = False

    def source() -> bytes:
        nonlocal read
        read = True
        return b"y"

    with pytest.raises(ConflictError):
        await store.put("k", contents(source), size=1, name="n", content_type="t/t", created_at=0)
    assert not read
    await store.close()


async def test_a_file_that_cannot_be_made_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalObjectStore(tmp_path)
    [claimed] = (tmp_path / ".staging").iterdir()

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StorageError, match="Too many open files"):
            await put(store, "k", b"x")
    assert list(claimed.iterdir()) == []
    await store.close()


async def test_other_things_in_the_folder_are_not_objects(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    await put(store, "m", b"x")
    (tmp_path / "a-file").write_bytes(b"x")
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert [info.key for info in await store.list("", "", 1)] == ["m"]
    assert await store.stat("a-file") is None
    assert await store.stat("empty-folder") is None
    await store.close()


async def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    await put(store, "m", b"x")
    (tmp_path / "m" / "about.json").write_bytes(b'{"key": "m"')
    with pytest.raises(StorageError, match=r"m/about\.json is damaged"):
        await store.stat("m")
    await store.close()


def test_a_file_is_no_place_for_objects(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot keep objects in .*file"):
        LocalObjectStore(tmp_path / "file")


async def test_a_folder_has_no_urls(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    await put(store, "k", b"x")
    with pytest.raises(UnsupportedError, match="which has no URLs: read them with action read"):
        await store.presign("k", 60)
    await store.close()


async def test_keys_are_listed_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    for key in ("b/1", "b-1", "b0"):
        await put(store, key)
    assert [info.key for info in await store.list("", "", 9)] == ["b-1", "b/1", "b0"]
    await store.close()
