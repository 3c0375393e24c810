"""Reading Markdown as GitHub and PyPI show it: blocks line by line, then links and marks inside each block."""

from __future__ import annotations

import html
import re

from .markup import CodeBlock, Heading, LineCounter, Link, Markup, Paragraph, Problem, bare_links

FRONT_MATTER_LINES = 100
HTML_HEADING_LINES = 10

_FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*([^`]*)$")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_HTML_HEADING = re.compile(r"\s*<h([1-6])\b[^>]{0,500}>(.{0,2000}?)</h[1-6]>", re.I | re.S)
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$")
_DEFINITION = re.compile(r" {0,3}\[([^\]^][^\]]{0,300})\]:\s*<?([^\s>]{1,2000})")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])(?:\s+(?:\[[ xX]\]\s)?(.*))?$")
_QUOTE = re.compile(r" {0,3}>[ ]?(?:\[![A-Z]+\]\s*$)?(.*)$")

_CODE_SPAN = re.compile(r"(?<!`)(`{1,3})(?!`)(.{1,1000}?)(?<!`)\1(?!`)", re.S)
_COMMENT = re.compile(r"<!--.{0,5000}?-->", re.S)
_DESTINATION = r"\(\s{0,5}<?((?:[^\s<>()]|\([^\s<>()]{0,200}\)){0,2000})>?(?:\s{1,5}[\"'][^\"\n]{0,300}[\"'])?\s{0,5}\)"
_IMAGE = re.compile(r"!\[([^\]]{0,500})\]" + _DESTINATION)
_LINK = re.compile(r"\[([^\[\]]{0,1000})\]" + _DESTINATION)
_REFERENCE = re.compile(r"(!?)(?<![\w\]])\[([^\[\]]{1,500})\](?:\[([^\[\]]{0,300})\])?(?![\[(:])")
_AUTOLINK = re.compile(r"<(https?://[^\s<>]{1,2000}|mailto:[^\s<>]{1,300})>")
_HTML_LINK = re.compile(r"<(a|img)\s[^<>]{0,1000}?(?:href|src)\s{0,3}=\s{0,3}[\"']([^\"'<>]{1,2000})[\"']", re.I)
_HTML_ANCHOR = re.compile(r"<[a-z]\w{0,10}\s[^<>]{0,500}?\b(?:id|name)\s{0,3}=\s{0,3}[\"']([^\"'<>]{1,200})[\"']", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,1000}>")
_EMPHASIS = re.compile(r"(?<![\w*])(?:\*{1,3}|_{1,3})(?=\S)|(?<=\S)(?:\*{1,3}|_{1,3})(?![\w*])|~~")
_ESCAPE = re.compile(r"(\\)([!-/:-@\[-`{-~])")
_STASHED = re.compile(r"\x00(\d{1,9})\x00")


def scan(lines: list[str], start: int, document: Markup) -> None:
    """Add what `lines[start:]` hold to `document`."""
    _Scanner(lines, start, document).scan()


class _Scanner:
    def __init__(self, lines: list[str], start: int, document: Markup) -> None:
        self._lines = lines
        self._at = start
        self._document = document
        self._inline = _Inline(document, _definitions(lines[start:]))
        self._open: list[str] = []  # the lines of the paragraph being read
        self._opened = 0
        self._kind = "paragraph"
        self._in_list = False

    def scan(self) -> None:
        self._skip_front_matter()
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if not line.strip():
                self._close()
                self._at += 1
            elif not (self._indented_code(line) or self._fence(line) or self._heading(line) or self._other_block(line)):
                self._text(line)
        self._close()

    def _skip_front_matter(self) -> None:
        if self._lines[self._at : self._at + 1] == ["---"]:
            for number in range(self._at + 1, min(self._at + FRONT_MATTER_LINES, len(self._lines))):
                if self._lines[number].rstrip() == "---":
                    self._at = number + 1
                    return

    def _indented_code(self, line: str) -> bool:
        if self._open or self._in_list or not line.startswith(("    ", "\t")):
            return False
        first = self._at
        while self._at < len(self._lines) and (
            self._lines[self._at].startswith(("    ", "\t")) or not self._lines[self._at].strip()
        ):
            self._at += 1
        code = [text[1:] if text.startswith("\t") else text[4:] for text in self._lines[first : self._at]]
        self._document.code.append(CodeBlock(first + 1, "indented", None, "\n".join(code).rstrip()))
        return True

    def _fence(self, line: str) -> bool:
        match = _FENCE.match(line)
        if match is None:
            return False
        self._close()
        mark, info = match[1], match[2].split()
        first = self._at + 1
        end = next((n for n in range(first, len(self._lines)) if _closes(self._lines[n], mark)), None)
        if end is None:
            message = f"the code fence {mark} opened here is never closed"
            self._document.problems.append(Problem(first, "unbalanced-fence", message))
            end = len(self._lines)
        indent = len(line) - len(line.lstrip())
        code = [text[min(indent, len(text) - len(text.lstrip())) :] for text in self._lines[first:end]]
        if info[1:] and info[0].startswith("{"):  # a directive, as in ```{code-block} python
            info = info[1:]
        language = info[0].strip("{}.").split(",")[0].lower() if info else None
        self._document.code.append(CodeBlock(first + 1, "fenced", language or None, "\n".join(code)))
        self._at = end + 1
        return True

    def _heading(self, line: str) -> bool:
        if match := _HEADING.match(line):
            text = (match[2] or "").strip()
            bare = text.rstrip("#")
            text = bare.rstrip() if bare.endswith((" ", "\t")) or not bare else text
            return self._add_heading(len(match[1]), text, lines=1)
        if line.lstrip()[:2].lower() == "<h":
            ahead = "\n".join(self._lines[self._at : self._at + HTML_HEADING_LINES])
            if match := _HTML_HEADING.match(ahead):
                self._inline.collect_anchors(match[0])
                return self._add_heading(int(match[1]), match[2], lines=match[0].count("\n") + 1)
        underline = _UNDERLINE.match(line)
        if underline and self._open and self._kind == "paragraph":
            text, number = "\n".join(self._open), self._opened
            self._open = []
            level = 1 if underline[1][0] == "=" else 2
            return self._add_heading(level, text, lines=1, number=number)
        return False

    def _add_heading(self, level: int, raw: str, lines: int, number: int | None = None) -> bool:
        self._close()
        number = number or self._at + 1
        text = " ".join(self._inline.read(raw, number).split())
        if text:
            self._document.headings.append(Heading(number, level, text))
        self._in_list = False
        self._at += lines
        return True

    def _other_block(self, line: str) -> bool:
        """Comments, rules and link definitions: nothing to read in them."""
        if line.lstrip().startswith("<!--"):
            self._close()
            while self._at < len(self._lines) - 1 and "-->" not in self._lines[self._at]:
                self._at += 1
        elif not _RULE.match(line) and not (not self._open and _DEFINITION.match(line)):
            return False
        self._close()
        self._at += 1
        return True

    def _text(self, line: str) -> None:
        if match := _ITEM.match(line):
            self._start("item", match[1] or "")
            self._in_list = True
        elif match := _QUOTE.match(line):
            self._continue("quote", match[1])
        elif line.lstrip().startswith("|"):
            self._continue("table", line.strip())
        else:
            if not self._open and not line[0].isspace():
                self._in_list = False
            self._continue(self._kind if self._open else "paragraph", line.strip())
        self._at += 1

    def _start(self, kind: str, text: str) -> None:
        self._close()
        self._kind, self._open, self._opened = kind, [text], self._at + 1

    def _continue(self, kind: str, text: str) -> None:
        if self._open and self._kind == kind:
            self._open.append(text)
        else:
            self._start(kind, text)

    def _close(self) -> None:
        if self._open:
            text = self._inline.read("\n".join(self._open), self._opened)
            if text.strip():
                self._document.paragraphs.append(Paragraph(self._opened, self._kind, text))
        self._open = []


def _closes(line: str, mark: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(mark) and not stripped.strip(mark[0])


def _definitions(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        if match := _DEFINITION.match(line):
            found.setdefault(_normal(match[1]), match[2])
    return found


def _normal(label: str) -> str:
    return " ".join(label.lower().split())


class _Inline:
    """Takes the links out of a block's text and leaves what a reader would see."""

    def __init__(self, document: Markup, definitions: dict[str, str]) -> None:
        self._document = document
        self._definitions = definitions

    def read(self, raw: str, line: int) -> str:
        """The text without its marks, line breaks kept; links and anchors go to the document."""
        stash: list[str] = []
        counter = LineCounter(line)
        found: dict[tuple[int, str], Link] = {}

        def put_away(match: re.Match[str]) -> str:
            stash.append(match[2])
            return f"\x00{len(stash) - 1}\x00"

        def restored(text: str) -> str:
            return _STASHED.sub(lambda m: stash[int(m[1])], text)

        def add(match: re.Match[str], label: str, target: str, image: bool = False) -> str:
            number = counter.line(match.string, match.start())
            target = restored(target)
            found[number, target] = Link(number, restored(" ".join(label.split())), target, image)
            return "\n" * label.count("\n") if image else label

        def reference(match: re.Match[str]) -> str:
            image, label, name = bool(match[1]), match[2], match[3]
            target = self._definitions.get(_normal(name or label))
            if target is not None:
                return match[1].replace("!", "") + add(match, label, target, image)
            if name and not label.startswith("^"):
                number = counter.line(match.string, match.start())
                message = f"[{label}][{name}] refers to [{name}], which is not defined"
                self._document.problems.append(Problem(number, "undefined-reference", message))
            return match[0]

        def html_link(match: re.Match[str]) -> str:
            add(match, "", match[2], image=match[1].lower() == "img")
            return match[0]

        text = _ESCAPE.sub(put_away, _CODE_SPAN.sub(put_away, raw.replace("\x00", "")))
        text = _COMMENT.sub(lambda m: "\n" * m[0].count("\n"), text)
        text = _IMAGE.sub(lambda m: add(m, m[1], m[2], image=True), text)
        text = _LINK.sub(lambda m: add(m, m[1], m[2]), text)
        text = _AUTOLINK.sub(lambda m: add(m, m[1], m[1]), text)
        text = _REFERENCE.sub(reference, text)
        self.collect_anchors(text)
        text = _TAG.sub("", _HTML_LINK.sub(html_link, text))
        for link in bare_links(text, line):
            found.setdefault((link.line, link.target), link)
        self._document.links += sorted(found.values(), key=lambda link: link.line)
        return restored(html.unescape(_EMPHASIS.sub("", text)))

    def collect_anchors(self, text: str) -> None:
        """Note the places that HTML in the text names."""
        self._document.anchors.update(match[1] for match in _HTML_ANCHOR.finditer(text))
