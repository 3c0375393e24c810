"""The dashboard as one document."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quarterdeck.server.dashboard.app_page import app_page, link

MODULES = {
    "main.js": 'import { twice as double } from "./lib/math.js";\nimport name from "./lib/name.js";\n'
    "export const said = `${name()} ${double(4)}`;\nconsole.log(said);\n",
    "lib/math.js": 'import { two } from "./two.js";\nexport function twice(n) {\n  return n * two;\n}\n',
    "lib/two.js": "var t=2;export{t as two};",
    "lib/name.js": 'var t="the name";export default function(){return t}',
}


def write(folder: Path, **changes: str) -> Path:
    for name, source in {
        **MODULES,
        **{name.replace("__", "/") + ".js": text for name, text in changes.items()},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    return folder


def test_linked_modules_do_what_they_did(tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node is not None
    script = link(write(tmp_path), "main.js")
    assert subprocess.check_output([node, "-e", script], text=True) == "the name 8\n"


def test_what_cannot_be_linked_is_refused(tmp_path: Path) -> None:
    circle = 'import { twice } from "./math.js";\nexport const two = twice;\n'
    with pytest.raises(ValueError, match=r"main\.js -> lib/math\.js -> lib/two\.js -> lib/math\.js"):
        link(write(tmp_path, lib__two=circle), "main.js")
    with pytest.raises(ValueError, match="</script"):
        link(write(tmp_path, lib__two='export const two = "</SCRIPT>";\n'), "main.js")


def test_the_document_loads_nothing() -> None:
    page = app_page()
    assert "<style>" in page
    assert page.count("<script") == 1
    assert not re.search(r"<link|<script[^>]*src|^import\b|^export\b|import\(", page, re.MULTILINE)
