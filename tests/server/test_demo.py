"""`quarterdeck demo`, really run; and that it says no where something is not as it should be."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from quarterdeck.server import demo
from quarterdeck.server.demo import kept
from quarterdeck.server.demo.documents import Document, folder_documents, package_documents, questions, shortest
from quarterdeck.server.demo.report import Report

TOPICS = {
    "whales": "Humpback whales sing for hours in warm shallow lagoons during the long breeding season.",
    "bridges": "Suspension bridges carry their heavy decks on cables which hang between two tall towers.",
    "bread": "Sourdough bread rises slowly because wild yeast and bacteria share the same wet dough.",
    "clocks": "Pendulum clocks lose a few seconds every day when summer heat makes the rod longer.",
    "glaciers": "Glaciers grind the rock beneath them into flour that turns the mountain lakes turquoise.",
    "printing": "Movable type let printers set whole pages again and again without carving new blocks.",
}
FILLER = "It is worth to read on, as the next part says more about it. "


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Six small documents, each with one sentence that stands nowhere else."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for topic, sentence in TOPICS.items():
        (folder / f"{topic}.md").write_text(f"# About {topic}\n\n{FILLER}{sentence}\n\n## More\n\n{FILLER * 3}\n")
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where a demo in a process of its own makes its temporary folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@contextmanager
def started(folder: Path, scratch: Path) -> Generator[subprocess.Popen[str]]:
    """The demo in a process of its own; it has left nothing behind when this ends."""
    command = [sys.executable, "-m", "quarterdeck.server", "demo", str(folder)]
    pipe = subprocess.PIPE
    wishes = ("FORCE_COLOR", "TTY_COMPATIBLE")  # of whoever runs the tests, for colours in a pipe
    environment = {name: value for name, value in os.environ.items() if name not in wishes} | {"TMPDIR": str(scratch)}
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()
    assert list(scratch.iterdir()) == []


def read_until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"ended without {word!r}")


def alive(members: list[psutil.Process]) -> list[psutil.Process]:
    return [member for member in members if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]


def test_every_step_is_verified_in_plain_lines(texts: Path, scratch: Path) -> None:
    with started(texts, scratch) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "All 9 steps verified" in output
    assert "\x1b" not in output
    assert "6/6" in output
    table = output.splitlines()[-12:-2]
    assert [line[0] for line in table[1:]] == list("123456789")
    assert all(" s  yes, " in line for line in table[1:])


def test_ctrl_c_leaves_nothing_behind(texts: Path, scratch: Path) -> None:
    with started(texts, scratch) as process:
        read_until(process, "4. ")
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in output
    assert "Traceback" not in output
    assert len(family) >= 6
    assert alive(family) == []


def test_a_server_that_dies_too_early_is_one_clear_line(texts: Path, scratch: Path) -> None:
    with started(texts, scratch) as process:
        read_until(process, "4. ")
        [server] = psutil.Process(process.pid).children()
        server.kill()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith("FAILED after ")
    assert "Traceback" not in output


def test_a_check_that_does_not_hold_fails_the_demo_by_name(
    texts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def miscount(_: object) -> int:
        return 3

    monkeypatch.setattr(kept, "count_points", miscount)
    assert demo.run_demo(texts) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert "Index the texts: not so: the collection has 3 points" in last


def empty(folder: Path) -> Path:
    return folder


def binary(folder: Path) -> Path:
    (folder / "image").write_bytes(b"\x89PNG\0\xff")
    (folder / "blank.txt").write_text(" \n")
    return folder


def missing(folder: Path) -> Path:
    return folder / "nowhere"


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("words")
    return folder / "file"


@pytest.mark.parametrize("make", [empty, binary, missing, a_file])
def test_a_folder_without_texts_is_a_plain_error(
    make: Callable[[Path], Path], scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(scratch)
    assert demo.run_demo(folder) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert str(folder) in line


def test_a_folder_gives_its_first_twenty_texts(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.txt").write_text(f"text {number}")
    (tmp_path / "00-binary").write_bytes(b"\xff\xfe")
    (tmp_path / "00-large").write_bytes(b"word " * 300_000)
    (tmp_path / "00-link").symlink_to(tmp_path / "24.txt")
    (tmp_path / "00-folder").mkdir()
    assert [document.name for document in folder_documents(tmp_path)] == [f"{n:02}.txt" for n in range(20)]


def test_the_installed_packages_give_the_same_twenty_texts_each_time(tmp_path: Path) -> None:
    first, second = (package_documents(tmp_path / name) for name in "ab")
    assert [(d.name, d.contents) for d in first] == [(d.name, d.contents) for d in second]
    assert len({document.name for document in first}) == 20
    sizes = sorted(document.path.stat().st_size for document in first)
    assert 2_000 < sizes[0] <= sizes[9] <= 5_000 < sizes[10] <= sizes[-1] <= 80_000, "half of them are short"
    assert all(document.path.read_bytes() == document.contents for document in first)


def test_a_sentence_model_is_given_the_shortest_texts_up_to_25_kb(tmp_path: Path) -> None:
    documents = [Document(tmp_path / str(size), b"x" * size) for size in (16_000, 9_000, 50_000, 1_000, 15_000)]
    assert [len(document.contents) for document in shortest(documents)] == [1_000, 9_000, 15_000]
    assert [len(document.contents) for document in shortest(documents[2:3])] == [50_000]


def test_questions_are_sentences_of_one_document(texts: Path) -> None:
    documents = folder_documents(texts)
    found = questions(documents, 3)
    assert len({question.sentence for question in found} & set(TOPICS.values())) == 3
    for question in found:
        [path] = question.answers
        assert question.sentence in path.read_text()


def test_texts_without_sentences_are_asked_for_by_their_first_words() -> None:
    documents = [
        Document(Path(name), text.encode()) for name, text in (("a", "x1 = yy\nzz"), ("b", "| same"), ("c", "| same"))
    ]
    answers = {question.sentence: {path.name for path in question.answers} for question in questions(documents, 3)}
    assert answers == {"x1 = yy zz": {"a"}, "| same": {"b", "c"}}


def test_a_failed_step_is_reported_by_its_first_error(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    with report.step("one"):
        report.check("it holds", True)
    with report.step("two"):
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [OSError("first\nof all")]), OSError("second")])
    assert not report.summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("two: first of all")
    assert "yes, 1 check" in lines[-4]
    assert lines[-3].split()[-1] == "no"


def test_an_interrupt_is_not_swallowed_by_a_step() -> None:
    report = Report()
    with pytest.raises(asyncio.CancelledError), report.step("one"):
        raise asyncio.CancelledError
