"""Reading Markdown, reStructuredText and plain text: what is found, and on which line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.tools.agents.builtin.documents import Document
from quarterdeck.tools.agents.builtin.markup import Heading, Link, Paragraph, lines_of, slug
from quarterdeck.tools.agents.builtin.reader import parse
from quarterdeck.tools.agents.builtin.researcher import CHUNK_CHARACTERS, chunks
from quarterdeck.tools.agents.builtin.words import reading_ease, sentences, syllables, terms, words

MARKDOWN = """\
---
layout: page
---
<h1 align="center">
  The *Ship*
</h1>

[![Build](https://ci.example/badge.svg)](https://ci.example/run) and a [guide](docs/guide.md "read me").

Second Part
-----------
Text over
two lines with `code [not](a-link)` and **bold** words, see [the API][api],
<https://auto.example/x> or https://bare.example/path(1).

* item one
* item two
  goes on

  ```python {linenos=true}
  # not a heading
  ```

> A quoted line.

| a | b |
|---|---|
| 1 | [cell](#second-part) |

### Closed heading ###

    indented = "code"

    more

<!-- a comment
# no heading
-->
<a id="here"></a>

[api]: https://api.example/v1
~~~
never closed
"""


def test_markdown() -> None:
    found = parse(MARKDOWN, "ship.md")
    assert found.format == "markdown"
    assert found.title == "The Ship"
    assert found.headings == [
        Heading(4, 1, "The Ship"),
        Heading(10, 2, "Second Part"),
        Heading(30, 3, "Closed heading"),
    ]
    assert found.paragraphs == [
        Paragraph(8, "paragraph", " and a guide."),
        Paragraph(
            12,
            "paragraph",
            "Text over\ntwo lines with code [not](a-link) and bold words, see the API,\n"
            "https://auto.example/x or https://bare.example/path(1).",
        ),
        Paragraph(16, "item", "item one"),
        Paragraph(17, "item", "item two\ngoes on"),
        Paragraph(24, "quote", "A quoted line."),
        Paragraph(26, "table", "| a | b |\n|---|---|\n| 1 | cell |"),
    ]
    assert [(block.line, block.kind, block.language, block.code) for block in found.code] == [
        (21, "fenced", "python", "# not a heading"),
        (32, "indented", None, 'indented = "code"\n\nmore'),
        (43, "fenced", None, "never closed\n"),
    ]
    assert found.links == [
        Link(8, "Build", "https://ci.example/badge.svg", image=True),
        Link(8, "", "https://ci.example/run"),
        Link(8, "guide", "docs/guide.md"),
        Link(13, "the API", "https://api.example/v1"),
        Link(14, "https://auto.example/x", "https://auto.example/x"),
        Link(14, "https://bare.example/path(1)", "https://bare.example/path(1)"),
        Link(28, "cell", "#second-part"),
    ]
    assert found.anchors == {"here"}
    assert [(problem.line, problem.check) for problem in found.problems] == [(42, "unbalanced-fence")]


RST = """\
========
The Ship
========

.. image:: https://ci.example/badge.svg
   :target: https://ci.example/run

Intro with `a guide <https://guide.example>`_, ``code `x`_``, :class:`~deck.Ship` and Python_.
It says::

    literal = 1

Usage
=====

.. code-block:: Python
   :linenos:

   import ship

.. note:: Mind the
   gap.

Sub \\*Part
---------

>>> 1 + 1
2

1. first
2. second
   goes on

.. a comment
   that is `nothing`_

.. _Python:
   https://python.example

See `Usage`_ and `nowhere`_.

=====  =====
A      B
=====  =====
1      2
=====  =====

The end.
"""


def test_restructuredtext() -> None:
    found = parse(RST)
    assert found.format == "rst"
    assert found.title == "The Ship"
    assert found.headings == [Heading(2, 1, "The Ship"), Heading(13, 2, "Usage"), Heading(24, 3, "Sub *Part")]
    assert found.paragraphs == [
        Paragraph(8, "paragraph", "Intro with a guide, code `x`_, deck.Ship and Python.\nIt says:"),
        Paragraph(21, "paragraph", "Mind the\ngap."),
        Paragraph(30, "item", "first"),
        Paragraph(31, "item", "second\ngoes on"),
        Paragraph(40, "paragraph", "See Usage and nowhere."),
        Paragraph(42, "table", "A      B\n1      2"),
        Paragraph(48, "paragraph", "The end."),
    ]
    assert [(block.line, block.kind, block.language, block.code) for block in found.code] == [
        (11, "literal", None, "literal = 1"),
        (19, "directive", "python", "import ship"),
        (27, "doctest", "python", ">>> 1 + 1\n2"),
    ]
    assert found.links == [
        Link(5, "image", "https://ci.example/badge.svg", image=True),
        Link(6, "https://ci.example/badge.svg", "https://ci.example/run"),
        Link(8, "a guide", "https://guide.example"),
        Link(8, "Python", "https://python.example"),
        Link(40, "Usage", "#usage"),
    ]
    assert [(problem.line, problem.message) for problem in found.problems] == [
        (40, "`nowhere`_ refers to a target that is not defined")
    ]


def test_plain_text_and_the_header_of_metadata() -> None:
    text = (
        "Metadata-Version: 2.4\nName: ship\nProject-URL: Docs, https://docs.example\n"
        "Home-page: https://home.example\n\nOne\nparagraph.\n\n\nAnother (https://x.example).\n"
    )
    found = parse(text, "METADATA")
    assert (found.format, found.title, found.headings) == ("plain", "ship", [])
    assert found.paragraphs == [
        Paragraph(6, "paragraph", "One\nparagraph."),
        Paragraph(10, "paragraph", "Another (https://x.example)."),
    ]
    assert found.links == [
        Link(3, "Docs", "https://docs.example"),
        Link(4, "Home-page", "https://home.example"),
        Link(10, "https://x.example", "https://x.example"),
    ]
    declared = text.replace("\n\nOne", "\nDescription-Content-Type: text/markdown; charset=UTF-8\n\n# One\nTwo", 1)
    assert parse(declared).headings == [Heading(7, 1, "One")]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.rst", "# x", "rst"),
        ("a.MD", ".. note:: x", "markdown"),
        ("a.txt", "# Title\n\n[x](y)", "markdown"),
        ("", "Title\n=====\n\n.. note:: x", "rst"),
        ("", "just words", "plain"),
        ("", "", "plain"),
    ],
)
def test_the_format_comes_from_the_name_or_from_evidence(name: str, text: str, expected: str) -> None:
    assert parse(text, name).format == expected


def test_lines_are_counted_as_editors_do() -> None:
    assert lines_of("\ufeffa\r\nb\rc\nd\x0be\u2028f") == ["a", "b", "c", "d\x0be\u2028f"]
    assert [heading.line for heading in parse("x\r\n\r\n# A\r\n\r\n# B", "a.md").headings] == [3, 5]


def test_slugs_are_githubs() -> None:
    assert slug("Getting started: `pip` & Co. (2024)") == "getting-started-pip--co-2024"
    assert slug("Über uns_2") == "über-uns_2"


def test_words_and_sentences() -> None:
    text = (
        "Dr. No said: see fig. 3, e.g. this one. Really?! Yes (so he said.) It costs 3.50 for v1.2.3. end. 好。是的。"
    )
    assert [sentence for _, sentence in sentences(text)] == [
        "Dr. No said: see fig. 3, e.g. this one.",
        "Really?!",
        "Yes (so he said.)",
        "It costs 3.50 for v1.2.3. end.",
        "好。",
        "是的。",
    ]
    assert all(text[offset:].startswith(sentence) for offset, sentence in sentences(text))
    assert words("Don't count https://a.example/b 42 or ümläut_x") == ["Don't", "count", "or", "ümläut", "x"]
    assert dict(terms("The parser's parser parses C++ and v2.0, 42 of https://parser.example")) == {
        "parser": 2,
        "parses": 1,
        "c++": 1,
        "v2.0": 1,
    }


def test_syllables_and_reading_ease() -> None:
    counted = {"cat": 1, "table": 2, "make": 1, "asked": 1, "wanted": 2, "boxes": 2, "reading": 2, "library": 3, "e": 1}
    assert {word: syllables(word) for word in counted} == counted
    assert reading_ease(["The", "cat", "sat", "on", "the", "mat"], 1) == pytest.approx(
        116.1, abs=0.05
    )  # 206.835-6.09-84.6
    assert reading_ease([], 0) is None


PIECES = st.sampled_from(
    ["# ", "## ", "```", "~~~", "    ", "\t", "* ", "1. ", "> ", "| ", "|", "-", "=", "`", "``", "[", "]", "(", ")",
     "](", "![", "<", ">", "<!--", "-->", "<h1>", "</h1>", ".. ", "::", ".. _", ".. code-block:: py", "`_", "_", "__",
     "*", "\\", "\n", "\n\n", "\r\n", "https://x.y/z", "Word", "two words. ", "ü", "字", "\x00", "\x00" "0", "\ufffd",
     ":a: ", "Metadata-Version: 2\n", "+--+", "====", "----", "== ==", "&amp;", "[a]: b", "\u2028", "\ud800",
     "...", ">>> "]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join), st.sampled_from(["a.md", "a.rst", ""]))
def test_any_text_is_read_and_every_line_number_is_in_it(text: str, name: str) -> None:
    found = parse(text, name)
    last = len(lines_of(text))
    for part in (*found.headings, *found.paragraphs, *found.code, *found.links, *found.problems):
        assert 1 <= part.line <= last + 1
    assert all(paragraph.text.strip() for paragraph in found.paragraphs)
    document = Document("n", None, "t", text, found, found.format)
    for sentence in document.sentences():
        assert 1 <= sentence.line <= last
        assert "\n" not in sentence.text
    for line, chunk in chunks(document):
        assert 1 <= line <= last + 1
        assert 0 < len(chunk) <= CHUNK_CHARACTERS + 2 * chunk.count("\n\n")
        assert any(map(str.isalnum, chunk))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abc de.\n", min_size=1, max_size=900), min_size=1, max_size=8))
def test_chunks_lose_no_word(paragraphs: list[str]) -> None:
    text = "\n\n".join(paragraphs)
    document = Document("n", None, "t", text, parse(text), "markdown")
    found = [chunk for _, chunk in chunks(document)]
    letters = "".join(char for char in text if char.isalnum())
    assert "".join(char for chunk in found for char in chunk if char.isalnum()) == letters
