"""Reading reStructuredText as docutils does, as far as headings, paragraphs, code and links go."""

from __future__ import annotations

import re
from textwrap import dedent

from .markup import CodeBlock, Heading, LineCounter, Link, Markup, Paragraph, Problem, bare_links

_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"(\s*)\.\. (?:\|[^|\n]{1,200}\| )?([\w:-]{1,60})::\s*(.*)$")
_TARGET = re.compile(r"\s*\.\. _(?:`([^`\n]{1,300})`|([^:\n]{1,300})):\s*(.*)$")
_ANONYMOUS = re.compile(r"(?:\s*\.\. __:|__)\s+(\S.*)$")
_OPTION = re.compile(r"\s+:([\w-]{1,60}):")
_ITEM = re.compile(r"\s*(?:[-*+•‣]|(?:\d{1,9}|#|[a-zA-Z])[.)]|\((?:\d{1,9}|[a-zA-Z])\)|:[^:\s][^:\n]{0,100}:)\s+(.*)$")
_TABLE_BORDER = re.compile(r"\s*(?:\+[-=+]{3,}\+|=+( +=+)+)\s*$")

_CODE_SPAN = re.compile(r"``(.{1,1000}?)``", re.S)
_LINK = re.compile(r"`([^`<>]{0,1000}?)\s{0,5}<([^`<>]{1,2000})>`_{1,2}")
_PHRASE_REFERENCE = re.compile(r"(?<![\w:`])`([^`<>]{1,500})`(__?)(?!\w)")
_WORD_REFERENCE = re.compile(r"(?<![\w`/.:-])([A-Za-z][\w.+-]{0,100}?)_(?![\w_])")
_ROLE = re.compile(r":[\w:+-]{1,60}:`([^`]{1,500})`")
_SUBSTITUTION = re.compile(r"\|([^|\s][^|\n]{0,100})\|_{0,2}")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}(?=\S)|(?<=\S)\*{1,2}(?![\w*])|`")
_ESCAPE = re.compile(r"\\(?:[^\S\n]|([^\s\x00]))")

CODE_DIRECTIVES = {"code-block", "code", "sourcecode", "doctest", "testcode", "parsed-literal", "ipython"}
SKIPPED_DIRECTIVES = {"raw", "contents", "toctree", "include", "literalinclude", "math", "role", "highlight"}
PROSE_DIRECTIVES = {"note", "warning", "tip", "hint", "important", "caution", "danger", "attention", "error", "seealso"}
IMAGE_DIRECTIVES = {"image", "figure"}


def scan(lines: list[str], start: int, document: Markup) -> None:
    """Add what `lines[start:]` hold to `document`."""
    scanner = _Scanner(lines, start, document)
    scanner.scan()
    scanner.resolve()


class _Scanner:
    def __init__(self, lines: list[str], start: int, document: Markup) -> None:
        self._lines = lines
        self._at = start
        self._document = document
        self._styles: list[str] = []  # heading adornments in order of appearance: their place is the level
        self._targets: dict[str, str] = {}
        self._references: list[tuple[int, str, bool]] = []  # line, name, written as a phrase

    def scan(self) -> None:
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if not line.strip():
                self._at += 1
            elif not (self._heading() or self._directive(line) or self._explicit(line) or self._table(line)):
                self._paragraph(line)

    def resolve(self) -> None:
        """Turn references by name into links, now that all targets are known."""
        document = self._document
        headings = {_normal(heading.text) for heading in document.headings}
        document.anchors |= set(self._targets)
        for line, name, phrase in self._references:
            target = self._targets.get(_normal(name))
            if target is not None:
                document.links.append(Link(line, name, target or f"#{_normal(name)}"))
            elif _normal(name) in headings:
                document.links.append(Link(line, name, f"#{_normal(name)}"))
            elif phrase:
                message = f"`{name}`_ refers to a target that is not defined"
                document.problems.append(Problem(line, "undefined-reference", message))
        document.links.sort(key=lambda link: link.line)

    def _line(self, number: int) -> str:
        return self._lines[number].rstrip() if 0 <= number < len(self._lines) else ""

    def _heading(self) -> bool:
        first, second, third = (self._line(self._at + n) for n in range(3))
        if _ADORNMENT.match(first) and second and third == first and len(first) >= len(second.strip()):
            return self._add_heading(second, first[0] * 2, self._at + 2, 3)
        if first[0].isspace() or not _ADORNMENT.match(second) or _ADORNMENT.match(first):
            if _ADORNMENT.match(first) and not second and len(first) >= 4:  # a transition
                self._at += 1
                return True
            return False
        if len(second) < min(4, len(first)) or self._line(self._at - 1):
            return False
        return self._add_heading(first, second[0], self._at + 1, 2)

    def _add_heading(self, raw: str, style: str, number: int, lines: int) -> bool:
        if style not in self._styles:
            self._styles.append(style)
        text = self._inline(raw.strip(), number)
        self._document.headings.append(Heading(number, self._styles.index(style) + 1, text))
        self._at += lines
        return True

    def _block(self, start: int, indent: int) -> int:
        """The index behind the lines that are indented deeper than `indent`, blank lines between them included."""
        end = start
        for number in range(start, len(self._lines)):
            line = self._lines[number]
            if line.strip():
                if len(line) - len(line.lstrip()) <= indent:
                    break
                end = number + 1
        return end

    def _directive(self, line: str) -> bool:
        match = _DIRECTIVE.match(line)
        if match is None:
            return False
        indent, name, argument = len(match[1]), match[2].lower(), match[3].strip()
        body = self._at + 1
        end = self._block(body, indent)
        while body < end and (option := _OPTION.match(self._lines[body])):
            if name in IMAGE_DIRECTIVES and option[1] == "target":
                target = self._lines[body][option.end() :].strip()
                self._document.links.append(Link(body + 1, argument, target))
            body += 1
        if name in IMAGE_DIRECTIVES:
            self._document.links.append(Link(self._at + 1, name, argument, image=True))
        elif name in CODE_DIRECTIVES and body < end:
            language = "python" if name in ("doctest", "testcode", "ipython") else argument.lower() or None
            self._add_code(body, end, "directive", language)
        elif name not in SKIPPED_DIRECTIVES | CODE_DIRECTIVES:  # what is in it is read like any other text
            end = body
            if argument and name in PROSE_DIRECTIVES:  # the first line of that text
                end = body - 1
                self._lines[end] = " " * (indent + 1) + argument
        self._at = end
        return True

    def _explicit(self, line: str) -> bool:
        """Targets and comments."""
        indent = len(line) - len(line.lstrip())
        if match := _TARGET.match(line):
            end = self._block(self._at + 1, indent)
            address = "".join([match[3], *self._lines[self._at + 1 : end]]).strip()  # it may go on in the next line
            self._targets[_normal(match[1] or match[2])] = "".join(address.split()).removesuffix("_")
            self._at = max(self._at + 1, end)
            return True
        if match := _ANONYMOUS.match(line):
            self._document.links.append(Link(self._at + 1, "", match[1]))
        elif line.strip() == ".." or (line.lstrip().startswith(".. ") and not line.lstrip().startswith(".. [")):
            self._at = max(self._at + 1, self._block(self._at + 1, indent))
            return True
        else:
            return False
        self._at += 1
        return True

    def _table(self, line: str) -> bool:
        if not _TABLE_BORDER.match(line):
            return False
        first, borders, grid = self._at, 0, line.lstrip().startswith("+")
        while self._at < len(self._lines):
            text = self._line(self._at)
            borders += bool(_TABLE_BORDER.match(text))
            if not text and (grid or borders >= 3 or not _more_borders(self._lines, self._at)):
                break
            self._at += 1
        rows = [row for row in self._lines[first : self._at] if not _TABLE_BORDER.match(row)]
        self._add_paragraph("\n".join(rows), first + 1, "table")
        return True

    def _paragraph(self, line: str) -> None:
        first = self._at
        if line.lstrip().startswith(">>>"):
            while self._line(self._at):
                self._at += 1
            self._add_code(first, self._at, "doctest", "python")
            return
        item = _ITEM.match(line)
        text = [item[1] if item else line.strip()]
        self._at += 1
        while (following := self._line(self._at)) and not _ITEM.match(following) and not _DIRECTIVE.match(following):
            text.append(following.strip())
            self._at += 1
        if text[-1].endswith("::"):
            indent = len(line) - len(line.lstrip())
            end = self._block(self._at, indent)
            start = next((n for n in range(self._at, end) if self._lines[n].strip()), end)
            if start < end:
                self._add_code(start, end, "literal", None)
                self._at = end
            text[-1] = text[-1][:-1] if text[-1] != "::" else ""
        self._add_paragraph("\n".join(text), first + 1, "item" if item else "paragraph")

    def _add_code(self, start: int, end: int, kind: str, language: str | None) -> None:
        while start < end and not self._lines[start].strip():
            start += 1
        code = dedent("\n".join(self._lines[start:end])).rstrip()
        self._document.code.append(CodeBlock(start + 1, kind, language, code))

    def _add_paragraph(self, raw: str, number: int, kind: str) -> None:
        text = self._inline(raw, number)
        if text.strip():
            self._document.paragraphs.append(Paragraph(number, kind, text))

    def _inline(self, raw: str, line: int) -> str:
        """The text without its marks, line breaks kept; links go to the document, references wait for `resolve`."""
        stash: list[str] = []
        counter = LineCounter(line)

        def number(match: re.Match[str]) -> int:
            return counter.line(match.string, match.start())

        def put_away(match: re.Match[str]) -> str:
            stash.append(match[1] or "")
            return f"\x00{len(stash) - 1}\x00"

        def link(match: re.Match[str]) -> str:
            target, label = match[2].strip(), " ".join(match[1].split())
            if target.endswith("_"):
                self._references.append((number(match), target[:-1], True))
            else:
                self._document.links.append(Link(number(match), label or target, target))
                self._targets.setdefault(_normal(label), target)
            return match[1]

        def reference(match: re.Match[str]) -> str:
            if match.re is _WORD_REFERENCE or match[2] == "_":
                self._references.append((number(match), " ".join(match[1].split()), match.re is _PHRASE_REFERENCE))
            return match[1]

        text = _ESCAPE.sub(put_away, _CODE_SPAN.sub(put_away, raw.replace("\x00", "")))
        text = _ROLE.sub(lambda m: m[1].split("<")[0].strip().lstrip("~"), text)
        text = _PHRASE_REFERENCE.sub(reference, _LINK.sub(link, text))
        self._document.links += bare_links(text, line)
        text = _SUBSTITUTION.sub("", text)
        text = _EMPHASIS.sub("", _WORD_REFERENCE.sub(reference, text))
        return re.sub(r"\x00(\d{1,9})\x00", lambda m: stash[int(m[1])], text)


def _more_borders(lines: list[str], blank: int) -> bool:
    """Whether a simple table goes on behind a blank line."""
    return any(_TABLE_BORDER.match(line) for line in lines[blank + 1 : blank + 4])


def _normal(name: str) -> str:
    return " ".join(name.lower().split())
