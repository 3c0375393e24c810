"""The dashboard's modules as one script, which loads faster, and its files as one document, for hosts that show it
inside a chat: such a page may load nothing.

A module becomes a function, in the order in which they need each other. They are written so that this is simple: static
imports of relative paths, no cycles, nothing exported that changes later.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from posixpath import dirname, join, normpath

_IMPORT = re.compile(r'^import\s*(?P<what>\{[^}]*\}|\w+)\s*from\s*"(?P<path>[^"]+)";?', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const) (\w+))", re.MULTILINE)
_EXPORT_LIST = re.compile(r"export\{([^}]*)\};?\s*$")
_EXPORT_DEFAULT = re.compile(r"export default function")


@cache
def page_script() -> str:
    """All that index.html runs."""
    return link(_folder(), "main.js")


@cache
def app_page() -> str:
    """index.html with its style sheet and script inside."""
    page, style = _read(_folder(), "index.html"), _read(_folder(), "deck.css")
    for tag, content in {
        r'<link rel="icon"[^>]*>\s*': "",
        r'<link rel="stylesheet"[^>]*>': f"<style>\n{style}</style>",
        r'<script type="module"[^>]*></script>': f'<script type="module">\n{page_script()}</script>',
    }.items():
        page = _with(content, tag, page)
    return page


def _with(content: str, tag: str, page: str) -> str:
    """The page with the content instead of its one such tag."""
    before, *after = re.split(tag, page)
    if len(after) != 1:
        raise ValueError(f"index.html has {len(after)} of {tag}")
    return before + content + after[0]


def link(folder: Traversable, entry: str) -> str:
    """One script that does what the module `entry` does.

    Raises:
        ValueError: modules need each other in a circle, or one of them would end the script element.
    """
    linked: dict[str, str] = {}

    def add(path: str, above: tuple[str, ...]) -> None:
        if path in above:
            raise ValueError(f"modules need each other in a circle: {' -> '.join((*above, path))}")
        if path in linked:
            return
        source = _read(folder, path)
        if re.search(r"</script|<!--", source, re.IGNORECASE):
            raise ValueError(f"{path}: has </script or <!--, which an inline script cannot hold")
        needs = [normpath(join(dirname(path), found["path"])) for found in _IMPORT.finditer(source)]
        for need in needs:
            add(need, (*above, path))
        linked[path] = _as_function(source, needs, list(linked))

    add(entry, ())
    return "".join(f"// {path}\nconst $m{number} = {code};\n" for number, (path, code) in enumerate(linked.items()))


def _as_function(source: str, needs: list[str], order: list[str]) -> str:
    exports: dict[str, str] = {}
    numbers = iter([order.index(need) for need in needs])

    def imported(found: re.Match[str]) -> str:
        what = (
            found["what"].replace(" as ", ": ") if found["what"].startswith("{") else f"{{ default: {found['what']} }}"
        )
        return f"const {what} = $m{next(numbers)};"

    def exported(found: re.Match[str]) -> str:
        exports[found[1]] = found[1]
        return ""

    def listed(found: re.Match[str]) -> str:
        for pair in found[1].split(","):
            inner, _, outer = pair.strip().partition(" as ")
            exports[outer or inner] = inner
        return ""

    def default(_: re.Match[str]) -> str:
        exports["default"] = "$default"
        return "\nfunction $default"

    code = _IMPORT.sub(imported, source)
    code = _EXPORT.sub(exported, code)
    code = _EXPORT_LIST.sub(listed, code)
    code = _EXPORT_DEFAULT.sub(default, code)
    names = ", ".join(f"{outer}: {inner}" for outer, inner in exports.items())
    return f"(() => {{\n{code.strip()}\nreturn {{ {names} }};\n}})()"


def _folder() -> Traversable:
    return files(__name__.rpartition(".")[0])


def _read(folder: Traversable, path: str) -> str:
    return folder.joinpath(*path.split("/")).read_text(encoding="utf-8")
