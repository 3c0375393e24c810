"""The documents crew on PDF, DOCX and HTML: read in the second process, then worked on like any other text."""

from __future__ import annotations

import pytest

from tests import papers

from .driver import Driver, FakeDeck, Message

PAGES = ("Whales sing at dawn. They dive deep into the cold sea.", "Ships carry tea. The crew drinks it.", "The end.")


def deck() -> FakeDeck:
    made = FakeDeck({"uploads/plain.md": "# Plain\n\nWhales and ships."}, page=5000)
    made.files = {
        "uploads/whales.pdf": papers.pdf(PAGES, title="On whales"),
        "uploads/report.docx": papers.docx(),
        "uploads/page.html": papers.HTML.encode(),
        "uploads/readme.md": b'<p align="center">Logo</p>\n\n# Read me\n\nWords of a sentence.',
        "uploads/utf16.txt": "Na\u00efve words.".encode("utf-16"),
        "uploads/locked.pdf": papers.pdf(PAGES, password="x"),
        "uploads/scan.pdf": papers.pdf([""]),
        "uploads/cut.docx": papers.docx()[:5000],
        "uploads/program": b"\x7fELF\xff\xfe\x00",
    }
    return made


async def work(agent_type: str, *keys: str, do: str | None = None, served: FakeDeck | None = None) -> list[Message]:
    """The result for each document."""
    async with Driver(agent_type, served or deck()) as worker:
        await worker.start()
        prompt: Message = {"uploads": [f"uploads/{key}" for key in keys]}
        found: list[Message] = (await worker.run({**prompt, "do": do} if do else prompt))["documents"]
        return found


async def test_every_format_is_analysed() -> None:
    pdf, docx, page, readme, utf16, plain = await work(
        "researcher", "whales.pdf", "report.docx", "page.html", "readme.md", "utf16.txt", "plain.md"
    )
    assert (pdf["title"], pdf["format"], pdf["pages"], pdf["words"]) == ("On whales", "pdf", 3, 20)
    assert (docx["title"], docx["format"], docx["words"]) == ("Fleet report", "docx", 12)
    assert [(heading["level"], heading["text"]) for heading in docx["headings"]] == [
        (1, "Fleet report"),
        (1, "Ships"),
        (2, "Crews"),
    ]
    assert (page["title"], page["format"], page["codeBlocks"], page["links"]) == ("Sailing", "html", 1, 1)
    assert (readme["title"], readme["format"]) == ("Read me", "markdown")
    assert (utf16["format"], utf16["words"]) == ("plain", 2)
    assert plain["format"] == "markdown"
    assert not any("pages" in document for document in (docx, page, plain))


async def test_the_index_knows_the_pages_of_a_pdf() -> None:
    served = deck()
    pages = [f"Page {number}. " + "The whale dives. " * 50 for number in (1, 2, 3)]
    served.files["uploads/long.pdf"] = papers.pdf(pages)
    await work("researcher", "long.pdf", "report.docx", do="index_document", served=served)
    found = [
        (payload["page"], payload["text"][:7])
        for point in served.points.values()
        if (payload := point["payload"])["document"] == "uploads/long.pdf"
    ]
    assert found == [(1, "Page 1."), (2, "Page 2."), (3, "Page 3.")]
    assert not any(
        "page" in p["payload"] for p in served.points.values() if p["payload"]["document"][8:] == "report.docx"
    )


async def test_structure_and_code_survive() -> None:
    [docx] = await work("system-architect", "report.docx")
    assert [section["title"] for section in docx["sections"]] == ["Fleet report", "Ships"]
    assert [section["title"] for section in docx["sections"][1]["sections"]] == ["Crews"]
    [page] = await work("coder", "page.html")
    [block] = page["blocks"]
    assert (block["language"], block["code"], block["python"]["valid"]) == ("python", 'print("a < b")\nx = 1', True)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("locked.pdf", "uploads/locked.pdf is protected by a password"),
        ("scan.pdf", "uploads/scan.pdf is a PDF without text"),
        ("cut.docx", "uploads/cut.docx cannot be read as DOCX"),
        ("program", "uploads/program is neither PDF, DOCX, HTML nor utf-8 text (byte 4)"),
    ],
)
async def test_what_cannot_be_read_is_refused_and_the_worker_goes_on(key: str, text: str) -> None:
    async with Driver("reviewer", deck()) as worker:
        await worker.start()
        assert (await worker.refuse({"upload": f"uploads/{key}"})).startswith(text)
        assert (await worker.run({"upload": "uploads/plain.md"}))["documents"][0]["title"] == "Plain"


async def test_too_large_an_upload_is_refused_before_it_is_read() -> None:
    async def answer(tool: str, arguments: Message) -> Message:
        return {"size": (32 << 20) + 1, "type": "application/pdf", "content": "JVBERi0=", "nextOffset": 5}

    async with Driver("reviewer", answer) as worker:
        await worker.start()
        refusal = await worker.refuse({"upload": "uploads/huge.pdf"})
        assert refusal == "uploads/huge.pdf has 33554433 bytes; documents have at most 33554432"
        assert len(worker.calls) == 1
