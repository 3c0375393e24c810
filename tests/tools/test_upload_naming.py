"""Any name becomes one that every store can hold."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quarterdeck.storage.objects.base import check_key
from quarterdeck.tools.uploads.naming import NAME_BYTES, keys, printable, safe_name

NOON = 1_750_000_000_000  # 2025-06-15T15:06:40Z
anything = st.text(st.characters(exclude_categories=()), max_size=400)


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        ("", "file"),
        ("/", "file"),
        ("a/..", "a"),
        ("C:\\temp\\x.txt", "x.txt"),
        (".bashrc", "bashrc"),
        ("a\0b\n.txt", "a_b_.txt"),
        ("my file (1).txt", "my_file__1_.txt"),
        ("naïve-日本.md", "naïve-日本.md"),
        ("bad\udcff.txt", "bad_.txt"),
        ("x" * 300 + ".txt", "x" * 146 + ".txt"),
        ("é" * 300, "é" * 75),
        ("x" * 300 + "." + "y" * 300, "x" * 150),
    ],
)
def test_names(given_name: str, expected: str) -> None:
    assert safe_name(given_name) == expected


@given(anything)
@example("~.~")
@example("e\u0301" * 100)
def test_every_name_is_safe(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe.encode()) <= NAME_BYTES
    assert "/" not in safe
    assert not safe.startswith(".")
    assert safe_name(safe) == safe


@given(anything, st.sampled_from([".txt", ".pdf", ".tar", ".日本"]))
def test_the_extension_is_kept(name: str, extension: str) -> None:
    assert safe_name(name + "x" + extension).endswith(extension)


@given(anything)
def test_every_key_is_one_that_stores_take(name: str) -> None:
    found = list(islice(keys(name, NOON), 20))
    assert len(set(found)) == 20
    for key in found:
        check_key(key)
        assert key.startswith("uploads/2025-06-15T15-06-40_")
        assert key.count("/") == 1


def test_numbers_go_before_the_extension() -> None:
    assert list(islice(keys("a.b.txt", NOON), 3)) == [
        "uploads/2025-06-15T15-06-40_a.b.txt",
        "uploads/2025-06-15T15-06-40_a.b_2.txt",
        "uploads/2025-06-15T15-06-40_a.b_3.txt",
    ]


@given(st.text())
def test_text_is_printed_as_given(name: str) -> None:
    assert printable(name) == name


@given(anything)
def test_everything_can_be_printed(name: str) -> None:
    printable(name).encode()


def test_bytes_that_are_no_text_are_shown() -> None:
    assert printable("a\udcff.txt") == "a\\udcff.txt"
