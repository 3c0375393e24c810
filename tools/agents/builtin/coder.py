"""The coder: the code in documents, in which language, whether it parses, and the commands to type."""

from __future__ import annotations

import ast
import json
import re
import tomllib
import warnings
from collections import Counter
from typing import Any

from ..worker.task import Task
from .documents import Document, Result, work_through
from .markup import CodeBlock

BLOCKS_REPORTED = 200
CODE_REPORTED = 1000  # characters of one block
COMMANDS_REPORTED = 200
NAMES_REPORTED = 100

ALIASES = {
    "py": "python", "python3": "python", "pycon": "python", "python-console": "python", "ipython": "python",
    "sh": "shell", "bash": "shell", "zsh": "shell", "console": "shell", "shell-session": "shell", "terminal": "shell",
    "shellsession": "shell", "powershell": "powershell", "ps1": "powershell", "bat": "batch", "cmd": "batch",
    "js": "javascript", "ts": "typescript", "yml": "yaml", "rs": "rust", "golang": "go", "c++": "cpp", "cfg": "ini",
}  # fmt: skip
_PROMPT = re.compile(r"\s*(?:\([\w .-]{1,40}\) ?)?(?:\$|%|❯)\s+(\S.*)$")  # noqa: RUF001
_COMMANDS = re.compile(
    r"(?:sudo |[A-Z_]+=\S+ )*(?:\./\S+|(?:pip3?|pipx|uvx?|python3?|conda|mamba|poetry|hatch|tox|nox|pytest|make|cmake"
    r"|git|npm|npx|yarn|pnpm|cargo|go|docker|podman|kubectl|brew|apt|apt-get|dnf|yum|pacman|curl|wget|cd|mkdir|export|source"
    r"|ls|cp|mv|rm|cat|echo|chmod|tar|unzip|ssh|gpg)(?:\.exe)?)(?:\s|$)"
)
_PYTHON_EVIDENCE = re.compile(
    r"^\s*(?:(?:async )?def \w+\(|class \w+[(:]|import \w|from [\w.]+ import |with .+:$|@\w)|\w\(.*\)\s*$|^\w+ = ", re.M
)
_YAML_LINE = re.compile(r"\s*(?:- )?[\w./-]{1,80}:(?:\s|$)|\s*- \S|\s*#")
_TOML_EVIDENCE = re.compile(r"^\s*\[[\w.\"-]{1,100}\]\s*$|^[\w-]{1,80} = [\"\[{\d]", re.M)


def extract_code(task: Task) -> Result:
    """The code blocks with their languages, whether Python parses, what it imports and defines, and the commands."""
    return work_through(task, "code", _extract)


def _extract(document: Document) -> Result:
    blocks = [_describe(block) for block in document.markup.code]
    commands = [command for block in document.markup.code for command in shell_commands(block)]
    python = [block["python"] for block in blocks if "python" in block]
    return {
        "blocksFound": len(blocks),
        "languages": dict(Counter(block["language"] or "unknown" for block in blocks).most_common()),
        "pythonBlocks": len(python),
        "pythonInvalid": sum(not found["valid"] for found in python),
        "imports": sorted({name for found in python for name in found["imports"]})[:NAMES_REPORTED],
        "commandsFound": len(commands),
        "commands": commands[:COMMANDS_REPORTED],
        "blocks": blocks[:BLOCKS_REPORTED],
    }


def _describe(block: CodeBlock) -> Result:
    language = language_of(block)
    described: Result = {
        "line": block.line,
        "kind": block.kind,
        "language": language,
        "guessed": language is not None and block.language is None,
        "lines": block.code.count("\n") + 1 if block.code else 0,
        "code": block.code[:CODE_REPORTED],
        "truncated": len(block.code) > CODE_REPORTED,
    }
    if language == "python":
        described["python"] = read_python(block.code)
    return described


def language_of(block: CodeBlock) -> str | None:
    """What the document says the language is, else what the code itself proves or strongly suggests, else None."""
    if block.language is not None:
        return ALIASES.get(block.language, block.language)
    code = block.code.strip()
    if not code:
        return None
    if code.startswith("#!"):
        return "python" if "python" in code.split("\n", 1)[0] else "shell"
    if code.startswith(">>>"):
        return "python"
    lines = [line for line in code.split("\n") if line.strip() and not line.lstrip().startswith("#")]
    if lines and (_PROMPT.match(lines[0]) or all(_COMMANDS.match(line.strip()) for line in lines)):
        return "shell"
    return _data_language(code) or _python_or_none(code) or _markup_language(code, lines)


def _data_language(code: str) -> str | None:
    if code[0] in "{[":
        try:
            json.loads(code)
        except (ValueError, RecursionError):
            pass
        else:
            return "json"
    if _TOML_EVIDENCE.search(code):
        try:
            tomllib.loads(code)
        except (ValueError, RecursionError):
            return None
        return "toml"
    return None


def _python_or_none(code: str) -> str | None:
    return "python" if _PYTHON_EVIDENCE.search(code) and _parse(code)[0] is not None else None


def _markup_language(code: str, lines: list[str]) -> str | None:
    if code.startswith("<?xml"):
        return "xml"
    if code.startswith("<") and code.endswith(">"):
        return "html"
    if len(lines) >= 2 and all(_YAML_LINE.match(line) for line in lines):
        return "yaml"
    return None


def read_python(code: str) -> dict[str, Any]:
    """Parse Python, doctest sessions included: `{valid, error, imports, defines}` (top-level names)."""
    source = _doctest_source(code) if ">>> " in code else code
    tree, error = _parse(source)
    imports: set[str] = set()
    defines: list[str] = []
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports.add("." * node.level + (node.module or ""))
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defines.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defines += [target.id for target in targets if isinstance(target, ast.Name)]
    return {
        "valid": tree is not None,
        "error": error,
        "imports": sorted(imports)[:NAMES_REPORTED],
        "defines": list(dict.fromkeys(defines))[:NAMES_REPORTED],
    }


def _doctest_source(code: str) -> str:
    """What was typed at the `>>>` and `...` prompts, on the lines where it was."""
    typed = [line.lstrip() for line in code.split("\n")]
    return "\n".join(line[4:] if line[:4] in (">>> ", "... ") else "" for line in typed)


def _parse(code: str) -> tuple[ast.Module | None, str | None]:
    from textwrap import dedent

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes and comparisons in somebody's example
        try:
            return ast.parse(dedent(code)), None
        except SyntaxError as exc:
            return None, f"line {exc.lineno}: {exc.msg}"
        except (ValueError, RecursionError, MemoryError) as exc:
            return None, str(exc) or type(exc).__name__


def shell_commands(block: CodeBlock) -> list[Result]:
    """The commands of a shell block, `[{line, command}]`: after its `$` prompts, or every line where it has none."""
    if language_of(block) != "shell":
        return []
    lines = block.code.split("\n")
    prompted = any(_PROMPT.match(line) for line in lines)
    found: list[Result] = []
    continued = False
    for number, line in enumerate(lines, start=block.line):
        match = _PROMPT.match(line)
        text = match[1] if match else line.strip()
        if continued:
            found[-1]["command"] += " " + text.removeprefix(">").removesuffix("\\").strip()
        elif match or (not prompted and text and not text.startswith("#")):
            found.append({"line": number, "command": text.removesuffix("\\").strip()})
        else:
            continue
        continued = text.endswith("\\")
    return found
