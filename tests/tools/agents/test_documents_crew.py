"""The documents crew in real worker processes, on documents with known defects and on installed packages' texts."""

from __future__ import annotations

import ast
import json
from importlib.metadata import distributions
from textwrap import dedent
from typing import Any

import pytest

from quarterdeck.tools.agents.builtin.markup import lines_of

from .driver import Driver, FakeDeck, Message

CREW = {
    "researcher": "analyze_document",
    "coder": "extract_code",
    "tester": "validate_document",
    "reviewer": "review_document",
    "system-architect": "map_structure",
}
KEPT_AS = {
    "researcher": "analysis",
    "coder": "code",
    "tester": "validation",
    "reviewer": "review",
    "system-architect": "structure",
}


def package_texts() -> dict[str, str]:
    """The METADATA of every package in this environment, as if uploaded."""
    found = {f"uploads/2025-01-01T00-00-00_{d.name}.METADATA": d.read_text("METADATA") for d in distributions()}
    return {key: text for key, text in found.items() if text}


async def work(agent_type: str, prompt: str | Message, deck: FakeDeck | None = None) -> Any:
    async with Driver(agent_type, deck or FakeDeck()) as worker:
        await worker.start()
        return await worker.run(prompt)


async def work_on(agent_type: str, text: str, title: str = "doc.md") -> Any:
    """The result for one document."""
    return (await work(agent_type, {"text": dedent(text), "title": title}))["documents"][0]


@pytest.mark.slow
@pytest.mark.parametrize("agent_type", CREW)
async def test_real_texts_are_worked_through_and_kept(agent_type: str) -> None:
    deck = FakeDeck(package_texts(), page=10_000)
    assert len(deck.uploads) > 40
    async with Driver(agent_type, deck) as worker:
        await worker.start()
        result = await worker.run({"do": CREW[agent_type], "uploads": list(deck.uploads)})
        done = [message["done"] for message in worker.progress]
        total = worker.progress[-1]["total"]
    assert done[0] == 0
    assert done[-1] == total == len(deck.uploads)
    documents = {found["upload"]: found for found in result["documents"]}
    assert list(documents) == list(deck.uploads)
    kept = [f"{KEPT_AS[agent_type]}:{key}" for key in deck.uploads]
    assert result["stored"] == {"namespace": "documents", "keys": kept}
    assert {("documents", key): deck.memory["documents", key] for key in kept} == deck.memory
    assert [deck.memory["documents", key] for key in kept] == result["documents"]
    for key, text in deck.uploads.items():
        check = globals()[f"check_{agent_type.replace('-', '_')}"]
        check(documents[key], text)


def check_researcher(found: Message, text: str) -> None:
    lines = lines_of(text)
    assert found["title"] == next(line[6:] for line in lines if line.startswith("Name: "))
    for heading in found["headings"]:
        shown = "".join(lines[heading["line"] - 1 :][:2]).replace("`", "")
        assert heading["text"].split()[0].strip("`*:.") in shown
    for term in found["keyTerms"]:  # in parts: markup may stand between them
        assert all(part in text.lower() for part in term["term"].split("-"))
    assert len(found["summary"]) <= 4
    assert found["readingMinutes"] == round(found["words"] / 238, 1)
    assert (found["words"] == 0) == (found["sentences"] == 0)


def check_coder(found: Message, text: str) -> None:
    lines = lines_of(text)
    for block in found["blocks"]:
        first = block["code"].split("\n")[0].strip()
        assert first in lines[block["line"] - 1]
        if "python" in block and ">>>" not in block["code"] and not block["truncated"]:
            assert block["python"]["valid"] == parses(block["code"])
    for command in found["commands"]:
        assert command["command"].split()[0] in lines[command["line"] - 1]
    assert sum(found["languages"].values()) == found["blocksFound"]


def parses(code: str) -> bool:
    try:
        ast.parse(dedent(code))
    except SyntaxError:
        return False
    return True


def check_tester(found: Message, text: str) -> None:
    assert found["verdict"] == ("fail" if found["errors"] else "pass")
    assert sum(found["byCheck"].values()) == found["errors"] + found["warnings"]
    assert all(1 <= issue["line"] <= len(lines_of(text)) for issue in found["issues"])


def check_reviewer(found: Message, text: str) -> None:
    lines = lines_of(text)
    assert (found["readingEase"] is None) == (found["words"] == 0)
    for comment in found["comments"]:
        if comment["kind"] == "repeated-word":
            assert comment["comment"].strip("'\"").split()[1] in lines[comment["line"] - 1]


def check_system_architect(found: Message, text: str) -> None:
    assert all(host in text.lower() for host in found["hosts"])
    assert sum(section["totalWords"] for section in found["sections"]) + found["wordsBeforeFirstHeading"] >= 0
    for section in found["sections"]:
        assert section["totalWords"] >= section["words"]


async def test_the_sources_of_documents() -> None:
    async with Driver(
        "researcher", FakeDeck({"uploads/ü.md": "# Über\n\n" + "ÄÖÜ 漢字 🚢. " * 100}, page=64)
    ) as worker:
        await worker.start()
        found = await worker.run({"upload": "uploads/ü.md"})
        assert found["documents"][0]["title"] == "Über"
        assert found["documents"][0]["words"] == 200
        assert found["documents"][0]["characters"] == 8 + 100 * 10
        assert sum(1 for tool, _ in worker.calls if tool == "uploads") > 20
        plain = await worker.run("Just some words. And more.")
        assert (plain["documents"][0]["words"], plain["documents"][0]["upload"]) == (5, None)
        titled = await worker.run({"text": "x", "title": "two\nlines\x07"})
        assert titled["stored"]["keys"] == ["analysis:two lines"]
        sources = "give one of: upload (a key), uploads (a list of keys), text (and a title)"
        assert await worker.refuse({"do": "analyze_document"}) == sources
        assert await worker.refuse({"text": "x", "upload": "y"}) == sources
        assert await worker.refuse({"uploads": ["uploads/none"]}) == "no upload 'uploads/none'"
        assert "uploads must be list of texts, got []" in await worker.refuse({"uploads": []})


async def test_researcher_key_terms_are_those_that_set_a_document_apart() -> None:
    common = "The server answers every request of the client. "
    deck = FakeDeck({f"{name}.md": f"# {name}\n\n" + common * 3 + f"It tells of {name} now. " for name in "abc"})
    deck.uploads["a.md"] += "Whales sing. Whales dive."
    found = {d["upload"]: d for d in (await work("researcher", {"uploads": list(deck.uploads)}, deck))["documents"]}
    weights = {term["term"]: (term["count"], term["weight"]) for term in found["a.md"]["keyTerms"]}
    assert weights["whales"] == (2, 3.39)  # 2 * (ln(4/2) + 1): the rarer word outweighs
    assert weights["server"] == (3, 3.0)  # 3 * (ln(4/4) + 1)
    assert next(iter(weights)) == "whales"
    assert "whales" not in {term["term"] for term in found["b.md"]["keyTerms"]}


async def test_researcher_summarises_by_what_matters_most() -> None:
    text = """\
    # Compass

    The compass shows the crew which way the ship must go. Follow this list of steps here now:

    It was a rainy and rather unpleasant afternoon somewhere. The ship needs a compass because the crew needs the way.

    See release 12 for all of the other details.

    See release 13 for all of the other details.
    """
    found = await work_on("researcher", text)
    assert found["summary"] == [
        "The compass shows the crew which way the ship must go.",
        "It was a rainy and rather unpleasant afternoon somewhere.",
        "The ship needs a compass because the crew needs the way.",
    ]


async def test_researcher_indexes_in_chunks_and_replaces_them() -> None:
    paragraphs = [f"Paragraph {number} " + "tells something of the sea. " * 12 for number in range(8)]
    deck = FakeDeck({"uploads/sea.md": "# Sea\n\n" + "\n\n".join(paragraphs)})
    async with Driver("researcher", deck) as worker:
        await worker.start()
        result = await worker.run({"do": "index_document", "upload": "uploads/sea.md"})
        assert result["documents"] == [{"title": "Sea", "upload": "uploads/sea.md", "format": "markdown", "chunks": 4}]
        assert list(deck.points) == [f"uploads/sea.md#{number}" for number in range(4)]
        first = deck.points["uploads/sea.md#0"]
        assert first["text"].startswith("Sea\n\nParagraph 0 tells")
        assert first["payload"] == {
            "document": "uploads/sea.md",
            "upload": "uploads/sea.md",
            "chunk": 0,
            "line": 1,
            "title": "Sea",
            "text": first["text"],
        }
        assert deck.points["uploads/sea.md#1"]["payload"]["line"] == 7
        assert all(len(point["text"]) <= 1010 for point in deck.points.values())
        deck.uploads["uploads/sea.md"] = "# Sea\n\nShort."
        await worker.run({"do": "index_document", "upload": "uploads/sea.md"})
        assert [point["text"] for point in deck.points.values()] == ["Sea\n\nShort."]
        empty = await worker.run({"do": "index_document", "text": "---\n***\n", "title": "nothing"})
        assert empty["documents"][0]["chunks"] == 0


async def test_researcher_finds_what_documents_share() -> None:
    license_text = (
        "Permission is hereby granted, free of charge, to any person obtaining a copy of this software. "
        "The software is provided as is, without warranty of any kind, express or implied."
    )
    reworded = license_text.replace("free of charge", "without charge").replace("a copy", "one copy")
    deck = FakeDeck(
        {
            "a.md": f"# A\n\nWhales are large animals that live in all the oceans of the world.\n\n{license_text}\n",
            "b.md": f"# B\n\nSomething else stands here, at a length that counts for it.\n\n{license_text}\n",
            "c.md": f"# C\n\n\n\n{reworded}\n",
            "d.md": "# D\n\nNothing in this document has anything at all to do with those other ones.\n",
        }
    )
    result = await work("researcher", {"do": "compare_documents", "uploads": list(deck.uploads)}, deck)
    assert (result["pairsCompared"], result["pairsSharing"], result["passagesFound"]) == (6, 3, 3)
    pairs = {(pair["first"], pair["second"]): pair for pair in result["pairs"]}
    assert pairs.keys() == {("a.md", "b.md"), ("a.md", "c.md"), ("b.md", "c.md")}
    exact = pairs["a.md", "b.md"]["passages"]
    assert [(p["sentences"], p["similarity"], p["firstLine"], p["secondLine"]) for p in exact] == [(2, 1.0, 5, 5)]
    assert exact[0]["firstText"].startswith("Permission is hereby granted")
    (close,) = pairs["a.md", "c.md"]["passages"]
    assert 0.75 <= close["similarity"] < 1
    assert (close["firstLine"], close["secondLine"]) == (5, 5)
    assert 0 < pairs["a.md", "c.md"]["similarity"] < pairs["a.md", "b.md"]["similarity"] < 1
    (key,) = result["stored"]["keys"]
    assert deck.memory["documents", key] == {name: value for name, value in result.items() if name != "stored"}

    async with Driver("researcher", deck) as worker:
        await worker.start()
        alone = {"do": "compare_documents", "uploads": ["a.md", "a.md"]}
        assert await worker.refuse(alone) == "compare_documents needs at least two different uploads"


async def test_coder_reads_blocks_languages_and_commands() -> None:
    text = """\
    # Use

    ```python
    import os, sys
    from . import ship
    SIZE: int = 3
    class Deck:
        def scrub(self): ...
    ```

    ```py
    def broken(:
    ```

    ```console
    $ pip install \\
        ship
    Installed
    (venv) $ ship --sail
    ```

    ```bash
    # first
    git clone x
    ```

    ```
    {"a": [1, 2]}
    ```

    ```
    [tool.ship]
    crew = ["a"]
    ```

    ```
    What is this? Nobody knows.
    ```

        >>> from math import pi
        >>> for x in [1]:
        ...     print(x)
        1

    ```rust
    fn main() {}
    ```
    """
    found = await work_on("coder", text)
    blocks = {block["line"]: block for block in found["blocks"]}
    assert {line: (block["language"], block["guessed"]) for line, block in blocks.items()} == {
        4: ("python", False),
        12: ("python", False),
        16: ("shell", False),
        23: ("shell", False),
        28: ("json", True),
        32: ("toml", True),
        37: (None, False),
        40: ("python", True),
        46: ("rust", False),
    }
    assert blocks[4]["python"] == {
        "valid": True,
        "error": None,
        "imports": [".", "os", "sys"],
        "defines": ["SIZE", "Deck"],
    }
    assert blocks[12]["python"]["valid"] is False
    assert blocks[12]["python"]["error"].startswith("line 1: ")
    assert blocks[40]["python"] == {"valid": True, "error": None, "imports": ["math"], "defines": []}
    assert found["commands"] == [
        {"line": 16, "command": "pip install ship"},
        {"line": 19, "command": "ship --sail"},
        {"line": 24, "command": "git clone x"},
    ]
    assert (found["blocksFound"], found["pythonBlocks"], found["pythonInvalid"]) == (9, 3, 1)
    assert found["imports"] == [".", "math", "os", "sys"]
    assert found["languages"] == {"python": 3, "shell": 2, "json": 1, "toml": 1, "unknown": 1, "rust": 1}


async def test_tester_finds_each_defect_on_its_line() -> None:
    text = """\
    # Start

    ### Too deep

    Broken \ufffd\ufffd text and a bell \x07.
    See [gone](#nowhere), [here](#too-deep), [file](docs/x.md), [void]().
    A [ref][undefined] and a [good][ok] one. TODO write more, or lorem ipsum.

    {long}

    [ok]: https://ok.example
    ```
    open
    """
    found = await work_on("tester", dedent(text).format(long="word " * 201))
    assert found["verdict"] == "fail"
    assert [(issue["line"], issue["severity"], issue["check"]) for issue in found["issues"]] == [
        (3, "warning", "heading-jump"),
        (5, "error", "control-character"),
        (5, "error", "replacement-character"),
        (6, "error", "broken-anchor"),
        (6, "error", "empty-link"),
        (6, "warning", "relative-link"),
        (7, "error", "undefined-reference"),
        (7, "warning", "leftover"),
        (7, "warning", "leftover"),
        (9, "warning", "long-paragraph"),
        (12, "error", "unbalanced-fence"),
    ]
    assert (found["errors"], found["warnings"]) == (6, 5)
    assert found["byCheck"]["leftover"] == 2
    messages = {issue["check"]: issue["message"] for issue in found["issues"]}
    assert messages["broken-anchor"] == "#nowhere is no heading or anchor of this document"
    assert messages["replacement-character"] == "2 x U+FFFD: text was lost in a conversion"
    assert messages["control-character"] == "control character U+0007"


async def test_tester_passes_what_is_sound_and_fails_what_is_empty() -> None:
    sound = await work_on("tester", "# A\n\nSee [B](#b), [again](#b-1) and a todo app.\n\n## B\n\n## B\n\nEnd.\n")
    assert (sound["verdict"], sound["issues"]) == ("pass", [])
    empty = await work_on("tester", " \n\n")
    assert (empty["verdict"], empty["byCheck"]) == ("fail", {"empty": 1})
    untitled = await work_on("tester", "Only words.\n", title="x.txt")
    assert (untitled["verdict"], untitled["byCheck"]) == ("pass", {"missing-title": 1})


async def test_reviewer_comments_by_line() -> None:
    long = " ".join(["word"] * 1 + ["other", "thing"] * 18)
    text = f"""\
    # Review

    This is the the first. It was built by
    by a crew. He had had enough. Perhaps it works, probably.

    {long}.

    A paragraph that occurs twice should be found by it.

    * Mary had been chosen quickly.

    A paragraph that occurs twice
    should be found by it.
    """
    found = await work_on("reviewer", text)
    assert [(comment["line"], comment["kind"]) for comment in found["comments"]] == [
        (3, "repeated-word"),
        (4, "repeated-word"),
        (6, "long-sentence"),
        (12, "repeated-paragraph"),
    ]
    assert [comment["comment"] for comment in found["comments"][:2]] == ["'the the'", "'by by'"]
    assert found["comments"][2]["comment"].startswith("37 words in one sentence: word other")
    assert found["comments"][3]["comment"] == "the same as on line 8"
    assert found["passiveSentences"] == 4  # built, found twice, chosen
    assert found["hedgeWords"] == 2
    assert found["sentences"] == 8


async def test_reviewer_reads_ease() -> None:
    easy = await work_on("reviewer", "# A\n\nThe cat sat on the mat. The dog ran to the cat.\n")
    assert (easy["readingEase"], easy["readingLevel"]) == (116.1, "very easy")
    hard = await work_on("reviewer", "Institutional internationalization necessitates organizational considerations.\n")
    assert hard["readingLevel"] == "very difficult"
    none = await work_on("reviewer", "```\ncode\n```\n")
    assert (none["readingEase"], none["readingLevel"], none["wordsPerSentence"]) == (None, None, None)


async def test_architect_draws_the_tree_and_the_links() -> None:
    text = """\
    Before the heading.

    # A

    One two three.

    ## B

    Four five, see [C](#c) and [gone](#gone).

    #### D

    ```
    code
    ```

    ## C

    Six [site](https://one.example/x), https://one.example/y, [mail](mailto:a@b.example), [file](x/y.md).
    ![pic](https://two.example/p.png)
    """
    found = await work_on("system-architect", text)

    def shape(sections: list[Message]) -> list[Any]:
        return [
            (s["line"], s["title"], s["words"], s["totalWords"], s["codeBlocks"], shape(s["sections"]))
            for s in sections
        ]

    assert shape(found["sections"]) == [
        (3, "A", 3, 13, 0, [
            (7, "B", 6, 6, 0, [(11, "D", 0, 0, 1, [])]),
            (17, "C", 4, 4, 0, []),
        ]),
    ]  # fmt: skip
    assert (found["depth"], found["sectionCount"], found["wordsBeforeFirstHeading"]) == (3, 4, 3)
    assert found["links"] == {"internal": 2, "relative": 1, "external": 3, "images": 1}
    assert found["hosts"] == {"one.example": 2, "two.example": 1}
    assert found["brokenAnchors"] == [{"line": 9, "target": "#gone"}]


async def test_architect_sees_how_documents_refer_to_each_other() -> None:
    stamp = "uploads/2025-06-15T15-06-40_"
    deck = FakeDeck(
        {
            f"{stamp}guide.md": "# Sailing Guide\n\nStart with [this](../docs/REFERENCE.md).\n",
            f"{stamp}reference.md": "# Reference\n\nAs the\nsailing guide says: sail.\n\n[x](guide.md)\n",
            f"{stamp}alone.md": "# Alone\n\nNo links, no references.\n",
        }
    )
    result = await work("system-architect", {"uploads": list(deck.uploads)}, deck)
    assert [found["references"] for found in result["documents"]] == [
        [{"document": f"{stamp}reference.md", "links": [3], "mentions": []}],
        [{"document": f"{stamp}guide.md", "links": [6], "mentions": [4]}],
        [],
    ]


@pytest.mark.parametrize("agent_type", CREW)
@pytest.mark.parametrize(
    "hostile", ["[" * 200_000, "`a " * 70_000, "# a\n" * 50_000, "* " * 100_000, "word " * 200_000]
)
async def test_hostile_texts_are_answered_within_the_limits_of_memory(agent_type: str, hostile: str) -> None:
    deck = FakeDeck()  # it refuses values over 1 MiB, as memory does
    found = await work(agent_type, {"text": hostile, "title": "hostile.md"}, deck)
    assert len(found["documents"]) == len(deck.memory) == 1


@pytest.mark.slow
async def test_five_megabytes_of_text() -> None:
    text = "# Big\n\n" + "The quick brown fox — naïvely — jumps over the lazy dog.\n\n" * 80_000
    assert len(text.encode()) > 5_000_000
    deck = FakeDeck({"big.md": text})
    found = (await work("researcher", {"upload": "big.md"}, deck))["documents"][0]
    assert (found["words"], found["paragraphs"]) == (800_000, 80_000)
    assert len(json.dumps(found)) < 10_000
