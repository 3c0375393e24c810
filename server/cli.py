"""The `quarterdeck` command. Each subcommand imports what it needs when it runs: a client waits for `serve`."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .config import Settings

EXIT_INCOMPLETE = 1  # some of what was asked for is not done, and was named
EXIT_UNUSABLE = 2  # settings or data directory


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # whatever the console's own encoding, and whatever a file is called
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    options = _parser().parse_args(argv)
    match options.command:
        case "serve":
            return _serve(http=options.http)
        case "dashboard":
            return _dashboard(open_browser=options.open)
        case "demo":
            from .demo import run_demo

            return run_demo(options.folder)
        case "doctor":
            from .doctor import run_doctor

            return run_doctor()
        case "memory" | "backup" | "restore":
            return _keep(options)
        case "import-claude-flow":
            return _import_claude_flow(options.path, dry_run=options.dry_run)
        case _:
            return _config()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quarterdeck", description="One MCP server: durable memory, real agents, live control, uploads, vectors."
    )
    parser.add_argument("--version", action="version", version=f"quarterdeck {version('quarterdeck')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve MCP over stdin and stdout")
    serve.add_argument("--http", action="store_true", help="serve MCP, a REST API and a page over HTTP instead")
    dashboard = commands.add_parser("dashboard", help="show a page on which to see and steer what the servers do")
    dashboard.add_argument("--no-open", dest="open", action="store_false", help="only print its address")
    demo = commands.add_parser("demo", help="show and verify everything on real input, in a folder of its own")
    demo.add_argument("folder", nargs="?", type=Path, help="texts to work on (default: those of installed packages)")
    commands.add_parser("doctor", help="check what is installed and reachable, and say what to do about it")
    commands.add_parser("config", help="print every setting and where its value comes from")
    memory = commands.add_parser("memory", help="export or import memory as JSON lines, beside running servers")
    ways = memory.add_subparsers(dest="way", required=True, metavar="export|import")
    export = ways.add_parser("export", help="write every live entry with its version and times")
    export.add_argument("file", nargs="?", type=Path, help="where to (default: stdout)")
    export.add_argument("--namespace", help="only this one")
    load = ways.add_parser("import", help="take entries over; what is here as new or newer stays")
    load.add_argument("file", nargs="?", type=Path, help="where from (default: stdin)")
    taken = commands.add_parser("import-claude-flow", help="take over the memory of claude-flow 2.7")
    taken.add_argument("path", nargs="?", type=Path, default=Path(), help="its memory.db, or a project (default: here)")
    taken.add_argument("--dry-run", action="store_true", help="only count, and name what cannot be taken over")
    backup = commands.add_parser("backup", help="copy the data directory into a new folder, while servers write")
    backup.add_argument("folder", type=Path, help="must not exist yet")
    restore = commands.add_parser("restore", help="put a backup in the place of the data directory; no server may run")
    restore.add_argument("folder", type=Path, help="what backup has made")
    return parser


def _serve(*, http: bool) -> int:
    import gc

    gc.disable()  # nothing that is imported becomes garbage: collecting meanwhile only delays the first answer
    import anyio

    from quarterdeck.storage.errors import DeckError

    from .config import load_settings
    from .logs import log_to_stderr

    serve: Callable[[Settings], Awaitable[None]]
    if http:
        from .http import serve_http as serve
    else:
        from .serve import serve_stdio as serve

    gc.freeze()
    gc.enable()
    try:
        settings = load_settings()
        log_to_stderr(settings.log_level)
        anyio.run(serve, settings)
    except DeckError as exc:
        print(f"quarterdeck: {exc.message}", file=sys.stderr)  # noqa: T201
        return EXIT_UNUSABLE
    return 0


def _dashboard(*, open_browser: bool) -> int:
    import anyio

    from quarterdeck.storage.errors import DeckError

    from .config import load_settings
    from .http import serve_http
    from .logs import log_to_stderr
    from .page import Page

    try:
        settings = load_settings()
        log_to_stderr(settings.log_level)
        with Page(settings, open_browser=open_browser) as page:
            anyio.run(serve_http, page.settings, page.show)
    except DeckError as exc:
        print(f"quarterdeck: {exc.message}", file=sys.stderr)  # noqa: T201
        return EXIT_UNUSABLE
    return 0


def _keep(options: argparse.Namespace) -> int:
    import asyncio

    from quarterdeck.storage.errors import DeckError

    from .config import load_settings

    try:
        settings = load_settings()
        match options.command, getattr(options, "way", None):
            case "memory", "export":
                from .keep import export_memory

                told = asyncio.run(export_memory(settings, options.file, options.namespace))
            case "memory", _:
                from .keep import import_memory

                told = asyncio.run(import_memory(settings, options.file))
            case "backup", _:
                from .backup import back_up

                told = back_up(settings, options.folder)
            case _:
                from .backup import restore

                told = restore(settings, options.folder)
    except DeckError as exc:
        print(f"quarterdeck: {exc.message}", file=sys.stderr)  # noqa: T201
        return EXIT_UNUSABLE
    print(told, file=sys.stderr)  # noqa: T201  stdout is for what was exported
    return 0


def _import_claude_flow(path: Path, *, dry_run: bool) -> int:
    import asyncio

    from quarterdeck.storage.errors import DeckError

    from .config import load_settings
    from .keep import import_claude_flow

    try:
        taken = asyncio.run(import_claude_flow(load_settings(), path, dry_run=dry_run))
    except DeckError as exc:
        print(f"quarterdeck: {exc.message}", file=sys.stderr)  # noqa: T201
        return EXIT_UNUSABLE
    print(  # noqa: T201
        f"{taken.written} entries {'would be ' * dry_run}taken over, {taken.unchanged} unchanged (as new here), "
        f"{taken.expired} expired, {taken.damaged} skipped",
        file=sys.stderr,
    )
    return EXIT_INCOMPLETE if taken.damaged else 0


def _config() -> int:
    from .config import SettingsError, environment_name, load_settings, sources, unknown_variables

    try:
        settings = load_settings()
        origin = sources(settings)
    except SettingsError as exc:
        print(f"quarterdeck: {exc.message}", file=sys.stderr)  # noqa: T201
        return EXIT_UNUSABLE
    for field in type(settings).model_fields:
        value = getattr(settings, field)
        print(f"{environment_name(field)}={_shown(value)}  # {origin[field]}")  # noqa: T201
    for name in unknown_variables():
        print(f"# {name} is set but means nothing here")  # noqa: T201
    return 0


def _shown(value: object) -> str:
    """A setting as the environment would spell it, without passwords; agent types by name, as their command lines may
    hold some."""
    from pydantic import SecretStr

    from quarterdeck.storage.remote import without_password

    from .setting_types import AgentsTable

    if value is None:
        return ""
    if isinstance(value, list):
        return os.pathsep.join(str(item) for item in cast("list[object]", value))
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, AgentsTable):
        return ", ".join(value.types)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and "://" in value:
        return without_password(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
