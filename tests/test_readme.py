"""The README's tables are what the code says. `python -m tests.test_readme` writes them anew."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import anyio
import pytest

from quarterdeck.server.config import Settings, environment_name
from quarterdeck.server.deck import open_deck
from quarterdeck.tools.agents.builtin.catalogue import CREWS, TYPES
from quarterdeck.tools.queries.rules import FIELDS, SHIPPED

README = Path(__file__).parent.parent / "README.md"
INSTALLED = {"command": "quarterdeck", "args": ["serve"]}  # by name: links know no paths
SHOWN_DEFAULTS = {
    "data_dir": "the user's data folder",
    "agents": "none",
    "http": "none",
    "http_token": "none",
    "telemetry_url": "none",
    "optimizer": "none",
    "memory_url": "SQLite in the data directory",
    "objects_url": "a folder in the data directory",
    "minio_endpoint": "none",
    "minio_access_key": "none",
    "minio_secret_key": "none",
    "cache_url": "none",
    "embedder_key": "none",
    "sync_key": "none",
    "sync_url": "none",
    "upload_roots": "the working directory",
    "vectors_key": "none",
    "vectors_url": "SQLite and FAISS in the data directory",
}


def tools_table() -> str:
    async def collect() -> list[str]:
        async with (
            anyio.TemporaryDirectory() as folder,
            open_deck(Settings(data_dir=Path(folder), upload_roots=[])) as deck,
        ):
            return [f"| `{tool.name}` | {tool.description} |" for tool in deck.tools.values()]

    return "\n".join(["| tool | does |", "| --- | --- |", *anyio.run(collect)])


def types_table() -> str:
    rows: list[str] = []
    for kind in TYPES.values():
        takes = {
            name: ", ".join(f"{key}{'' if field.needed else '?'}" for key, field in capability.fields.items())
            for name, capability in kind.capabilities.items()
        }
        shown = ", ".join(f"`{name}({fields})`" for name, fields in takes.items())
        rows.append(f"| `{kind.name}` | {kind.summary} | {shown} |")
    return "\n".join(["| type | does | capabilities(fields; ? may be left out) |", "| --- | --- | --- |", *rows])


def settings_table() -> str:
    rows: list[str] = []
    for name, field in Settings.model_fields.items():
        default = (
            SHOWN_DEFAULTS.get(name)
            or f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
        )
        rows.append(f"| `{environment_name(name)}` | `{name}` | {default} | {field.description} |")
    return "\n".join(["| variable | TOML key | default | means |", "| --- | --- | --- | --- |", *rows])


def rules_table() -> str:
    rows = [
        f"| `{rule.name}` | {rule.priority} | {' and '.join(map(str, rule.when))} "
        f"| {rule.action}{'' if rule.model is None else f' to {rule.model}'} |"
        for rule in SHIPPED
    ]
    return "\n".join(["| rule | priority | when | does |", "| --- | --- | --- | --- |", *rows])


def fields_table() -> str:
    rows = [f"| `{field}` | {meaning} |" for field, meaning in FIELDS.items()]
    return "\n".join(["| field | is |", "| --- | --- |", *rows])


def buttons() -> str:
    """Links that Cursor and VS Code document for installing a server."""
    config = json.dumps(INSTALLED, separators=(",", ":"))
    cursor = f"https://cursor.com/en/install-mcp?name=quarterdeck&config={base64.b64encode(config.encode()).decode()}"
    code = f"https://insiders.vscode.dev/redirect/mcp/install?name=quarterdeck&config={quote(config)}"
    badge = "https://img.shields.io/badge/VS_Code-Install_Quarterdeck-0098FF"
    return (
        f"[![Add to Cursor](https://cursor.com/deeplink/mcp-install-dark.svg)]({cursor})\n"
        f"[![Install in VS Code]({badge})]({code})"
    )


TABLES: dict[str, Callable[[], str]] = {
    "buttons": buttons,
    "tools": tools_table,
    "types": types_table,
    "rules": rules_table,
    "fields": fields_table,
    "settings": settings_table,
}


def written(name: str, text: str) -> str:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", text, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_what_the_code_says(name: str) -> None:
    assert written(name, README.read_text(encoding="utf-8")) == TABLES[name](), "run python -m tests.test_readme"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def started(server: dict[str, Any]) -> tuple[str, list[str]]:
    return Path(server["command"]).name, server["args"]


def test_what_is_added_to_clients_is_valid_and_names_the_command() -> None:
    """That it starts, tests/server/test_packaging.py shows."""
    servers = [
        servers["quarterdeck"]
        for snippet in map(json.loads, snippets("json"))
        if (servers := snippet.get("mcpServers") or snippet.get("servers"))
    ]
    tables = [tomllib.loads(snippet) for snippet in snippets("toml")]
    servers += [table["mcp_servers"]["quarterdeck"] for table in tables if "mcp_servers" in table]
    assert [started(server) for server in servers] == [("quarterdeck", ["serve"])] * 3
    text = README.read_text(encoding="utf-8")
    commands = re.findall(r"^    (?:claude|codex) mcp add quarterdeck -- (.*)$", text, re.MULTILINE)
    assert commands == ['"$PWD/.venv/bin/quarterdeck" serve'] * 2


def test_the_buttons_install_the_same() -> None:
    urls: list[str] = re.findall(r"\]\((https://[^)]*config[^)]*)\)", buttons())
    cursor, code = (parse_qs(urlsplit(url).query) for url in urls)
    assert cursor["name"] == code["name"] == ["quarterdeck"]
    assert json.loads(base64.b64decode(cursor["config"][0])) == json.loads(code["config"][0]) == INSTALLED


def test_every_setting_and_target_that_is_named_exists() -> None:
    text = README.read_text(encoding="utf-8")
    known = {environment_name(name) for name in Settings.model_fields} | {"QUARTERDECK_CONFIG"}
    assert set(re.findall(r"\b(?:QUARTERDECK|FEATURE)_[A-Z_]+\b", text)) <= known
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_and_test_that_is_named_exists() -> None:
    text = README.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(anchors) == len(headings), "two sections of one name"
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert target in anchors or target.startswith("https://") or (README.parent / target).exists(), target
    tests = set(re.findall(r"`(tests/[^`]*)`", text))
    assert len(tests) > 20
    assert not [test for test in tests if not (README.parent / test).exists()]


def test_every_file_that_contributing_names_exists() -> None:
    text = (README.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:server|tools|storage|tests|examples)/[\w/.]*)`", text))
    assert len(named) > 20
    assert not [path for path in named if not (README.parent / path).exists()]


def test_the_page_on_flags_names_every_flag_and_no_other() -> None:
    text = (README.parent / "ROLLBACK.md").read_text(encoding="utf-8")
    flags = {environment_name(name) for name in Settings.model_fields if name.startswith("feature_")}
    rows = re.findall(r"^\| `(FEATURE_\w+)` \|.*\| ([^|]*) \|$", text, re.MULTILINE)
    assert {flag for flag, _ in rows} == flags == set(re.findall(r"FEATURE_[A-Z_]+[A-Z]", text))
    for flag, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named, flag
        for file, test in named:
            assert f"def {test}(" in (README.parent / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_the_crews_are_the_first_five_types_and_the_others() -> None:
    crews = [[member.type for member in CREWS[crew]] for crew in ("documents", "qdrant")]
    assert crews == [list(TYPES)[:5], list(TYPES)[5:]]


def main() -> None:
    text = README.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = text.replace(written(name, text), table())
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
