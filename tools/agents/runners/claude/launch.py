"""How Claude Code is started: its command line, environment and folder, all of the type's configuration."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from ..base import AgentDiedError, AgentSpec
from ..children import LOGIN_ENVIRONMENT, Order, harmless_environment
from .config import ClaudeType

BYPASS = "bypassPermissions"
DECK = "deck"  # the MCP server of the deck's own tools, which check the agent's rights themselves

FIXED_ENVIRONMENT = {
    "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",  # else a session spends when its query has ended
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "DISABLE_AUTOUPDATER": "1",  # updating the user's own program is not an agent's business
}


FORBIDDEN_TOOLS = (
    *("Monitor", "ScheduleWakeup", "Workflow"),  # they go on when the query has ended
    *("ListAgents", "SendMessage"),  # they reach the user's other sessions
)


def is_root() -> bool:
    """Whether this is an account with which Claude Code refuses to bypass permissions."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def order(program: Path, kind: ClaudeType, spec: AgentSpec, *, may_bypass: bool) -> Order:
    """What worker/launch.py is to run.

    Args:
        program: the command line interface of Claude Code.
        may_bypass: whether the agent may ever be set to bypassPermissions; only a launch can allow it.

    Raises:
        AgentDiedError: it cannot be started with this permission mode.
    """
    if spec.permission_mode == BYPASS and not may_bypass:
        why = "as root" if is_root() else "for a type that the configuration does not let bypass them"
        raise AgentDiedError(f"Claude Code does not bypass permissions {why}")
    command = [str(program), "--output-format", "stream-json", "--input-format", "stream-json", "--verbose"]
    command += ["--include-partial-messages", "--setting-sources=user", "--strict-mcp-config"]
    command += [f"--permission-mode={spec.permission_mode}", f"--append-system-prompt={_role(kind, spec)}"]
    deck = {"mcpServers": {DECK: {"type": "sdk", "name": DECK}}}
    command += [f"--mcp-config={json.dumps(deck)}", f"--allowedTools={','.join([*kind.allowed_tools, f'mcp__{DECK}'])}"]
    if spec.model is not None:
        command.append(f"--model={spec.model}")
    if spec.session is not None:
        command.append(f"--resume={spec.session}")
    if may_bypass:
        command.append("--allow-dangerously-skip-permissions")
    command.append(f"--disallowedTools={','.join([*FORBIDDEN_TOOLS, *kind.disallowed_tools])}")
    if kind.sandbox:
        sandbox = {"enabled": True, "allowUnsandboxedCommands": False, "failIfUnavailable": True}
        command.append(f"--settings={json.dumps({'sandbox': sandbox})}")
    return {
        "command": command,
        "cwd": spec.cwd or spec.folder,
        "env": harmless_environment(*LOGIN_ENVIRONMENT, *kind.env) | FIXED_ENVIRONMENT,
        "limits": {},
    }


def find_program(kind: ClaudeType, sdk: Path) -> Path:
    """The user's own `claude` if the type names it, else the one that the SDK in the folder `sdk` brings, else the one
    on the PATH.

    Raises:
        AgentDiedError: there is none.
    """
    if kind.command is not None:
        return kind.command.expanduser().absolute()
    bundled = sdk / "_bundled" / ("claude.exe" if sys.platform == "win32" else "claude")
    on_path = shutil.which("claude")
    found = bundled if bundled.is_file() else Path(on_path) if on_path else None
    if found is None:
        raise AgentDiedError("there is no Claude Code here; install it, or name it by `command` of the agent's type")
    return found


def _role(kind: ClaudeType, spec: AgentSpec) -> str:
    """What is added to Claude Code's own system prompt."""
    labels = f" Your capabilities: {', '.join(spec.capabilities)}." if spec.capabilities else ""
    role = f"You are {spec.name}, an agent of type {spec.type}.{labels}"
    return f"{role}\n\n{kind.system_prompt}" if kind.system_prompt else role
