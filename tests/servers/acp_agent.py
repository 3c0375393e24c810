"""An agent of the Agent Client Protocol for the tests, on the library's agent side. It has no model: a prompt is a JSON
list of steps, each an object with one of these keys, and the turn ends after the last one.

    {"say": text}                               {"think": text}
    {"tool": id, "title": …, "kind": …, "status": …, "paths": […]}      the call of a tool, or news of it
    {"ask": id, "title": …, "kind": …, "paths": […], "options": [kind]} asks for permission, then says the answer
    {"beside": step}                            takes it while it goes on        {"join": true}      waits for these
    {"plan": [[content, status]]}               {"cost": usd, "currency": text}
    {"mode": id}                                takes a mode by itself
    {"touch": file}                             {"await": file}     waits until the file is there
    {"stop": reason, "tokens": n}               ends the turn with it
    {"fail": text, "code": n}                   {"exit": code}      {"hang up": true}
    {"raw": text}                               a line of stdout

The command line is a JSON object of what it offers: `modes`, `models`, `echo` (says so when its mode was set),
`stubborn` (acknowledges a model and does not take it), `load` and `resume` (sessions are kept in its folder), `deaf`
(ignores cancel), `slow_start` (waits for the file of that name), `login`, `version`. What it is asked is written to
`journal` in its folder, a JSON list a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pydantic

Json = Any


def _quick(use_attribute_docstrings: bool = False, **config: Json) -> Json:
    """The configuration of a model without what most of a start's time would go into: of the library's hundreds of
    models a test needs a dozen, and the description of none."""
    return {**config, "defer_build": True}


setattr(pydantic, "ConfigDict", _quick)  # noqa: B010  no checker takes an assignment
import acp  # noqa: E402
from acp import schema  # noqa: E402


class TestAgent:
    def __init__(self, offers: Json) -> None:
        self._offers = offers
        self._client: Json = None
        self._mode = offers.get("modes", [""])[0]
        self._model = offers.get("models", [""])[0]
        self._left = asyncio.Event()
        self._was_left = False  # a question of its was answered by "cancelled"

    def on_connect(self, conn: Json) -> None:
        self._client = conn

    # --- sessions

    async def initialize(self, protocol_version: int, **given: Json) -> schema.InitializeResponse:
        _note("initialize", given["client_capabilities"].model_dump(exclude_unset=True), given["client_info"].name)
        if "slow_start" in self._offers:
            await _there(self._offers["slow_start"])
        resume = schema.SessionResumeCapabilities() if self._offers.get("resume") else None
        return schema.InitializeResponse(
            protocol_version=self._offers.get("version", protocol_version),
            agent_capabilities=schema.AgentCapabilities(
                load_session=bool(self._offers.get("load")),
                session_capabilities=schema.SessionCapabilities(resume=resume),
            ),
            auth_methods=[schema.AuthMethodAgent(id="key", name="A key")],
        )

    async def authenticate(self, method_id: str, **_: Json) -> schema.AuthenticateResponse:
        _note("authenticate", method_id)
        self._offers.pop("login", None)
        return schema.AuthenticateResponse()

    async def new_session(self, cwd: str, mcp_servers: Json = None, **_: Json) -> schema.NewSessionResponse:
        if self._offers.get("login"):
            raise acp.RequestError.auth_required()
        session = f"session-{os.getpid()}"
        _note("new", cwd, mcp_servers, sorted(os.environ))
        await self._tell_commands(session)
        return schema.NewSessionResponse(session_id=session, modes=self._modes(), config_options=self._options())

    async def load_session(self, cwd: str, session_id: str, **_: Json) -> schema.LoadSessionResponse:
        self._find(session_id)
        _note("load", cwd, session_id)
        await self._client.session_update(session_id, acp.update_user_message_text("an earlier prompt"))
        await self._client.session_update(session_id, acp.update_agent_message_text("an earlier answer"))
        return schema.LoadSessionResponse(modes=self._modes(), config_options=self._options())

    async def resume_session(self, cwd: str, session_id: str, **_: Json) -> schema.ResumeSessionResponse:
        self._find(session_id)
        _note("resume", cwd, session_id)
        return schema.ResumeSessionResponse(modes=self._modes(), config_options=self._options())

    def _find(self, session_id: str) -> None:
        if not Path(session_id).exists():
            raise acp.RequestError.resource_not_found(session_id)

    async def _tell_commands(self, session: str) -> None:
        commands = [schema.AvailableCommand(name="compact", description="shorten")]
        update = schema.AvailableCommandsUpdate(session_update="available_commands_update", available_commands=commands)
        await self._client.session_update(session, update)

    # --- choices

    def _modes(self) -> schema.SessionModeState | None:
        if "modes" not in self._offers:
            return None
        modes = [schema.SessionMode(id=name, name=name) for name in self._offers["modes"]]
        return schema.SessionModeState(current_mode_id=self._mode, available_modes=modes)

    def _options(self) -> list[Json] | None:
        if "models" not in self._offers:
            return None
        values = [schema.SessionConfigSelectOption(value=name, name=name) for name in self._offers["models"]]
        return [
            schema.SessionConfigOptionBoolean(id="fast", name="Fast", type="boolean", current_value=True),
            schema.SessionConfigOptionSelect(
                id="llm", name="Model", category="model", type="select", current_value=self._model, options=values
            ),
        ]

    async def set_session_mode(self, session_id: str, mode_id: str, **_: Json) -> schema.SetSessionModeResponse:
        _note("mode", mode_id)
        self._mode = mode_id
        if self._offers.get("echo"):
            await self._tell_mode(session_id)
        return schema.SetSessionModeResponse()

    async def _tell_mode(self, session_id: str) -> None:
        update = schema.CurrentModeUpdate(session_update="current_mode_update", current_mode_id=self._mode)
        await self._client.session_update(session_id, update)

    async def set_config_option(self, config_id: str, value: Json, **_: Json) -> schema.SetSessionConfigOptionResponse:
        _note("option", config_id, value)
        if not self._offers.get("stubborn"):
            self._model = value
        return schema.SetSessionConfigOptionResponse(config_options=self._options() or [])

    # --- work

    async def cancel(self, **_: Json) -> None:
        _note("cancel")
        if not self._offers.get("deaf"):
            self._left.set()

    async def prompt(self, session_id: str, prompt: list[Json], **_: Json) -> schema.PromptResponse:
        text = prompt[0].text
        _note("prompt", text)
        Path(session_id).touch()
        self._left.clear()
        self._was_left = False
        steps = json.loads(text) if text.startswith("[") else [{"say": f"heard: {text}"}]
        working = asyncio.create_task(self._work(session_id, steps))
        left = asyncio.create_task(self._left.wait())
        await asyncio.wait([working, left], return_when=asyncio.FIRST_COMPLETED)
        if self._was_left:  # the notification is behind the answer that said so, if there is one
            await asyncio.wait([left], timeout=0.5)
        left.cancel()
        if not working.done() or (self._was_left and self._left.is_set()):
            working.cancel()
            return schema.PromptResponse(stop_reason="cancelled")
        return working.result()

    async def _work(self, session: str, steps: list[Json]) -> schema.PromptResponse:
        beside: list[asyncio.Task[Json]] = []
        for step in steps:
            match step:
                case {"beside": other}:
                    beside.append(asyncio.create_task(self._work(session, [other])))
                case {"join": _}:
                    await asyncio.gather(*beside)
                case {"stop": reason}:
                    usage = None
                    if (tokens := step.get("tokens")) is not None:
                        usage = schema.Usage(total_tokens=tokens, input_tokens=tokens, output_tokens=0)
                    return schema.PromptResponse(stop_reason=reason, usage=usage)
                case {"fail": why}:
                    raise acp.RequestError(step.get("code", -32603), why, step.get("data"))
                case {"exit": code}:
                    print("out of cheese", file=sys.stderr, flush=True)
                    os._exit(code)
                case {"raw": line}:
                    print(line, flush=True)
                case {"hang up": _}:
                    os.close(1)
                case {"touch": name}:
                    Path(name).touch()
                case {"await": name}:
                    await _there(name)
                case {"ask": _}:
                    await self._ask(session, step)
                case {"mode": mode}:
                    self._mode = mode
                    await self._tell_mode(session)
                case _:
                    await self._client.session_update(session, _update(step))
        return schema.PromptResponse(stop_reason="end_turn")

    async def _ask(self, session: str, step: Json) -> None:
        options = [
            schema.PermissionOption(option_id=kind, name=kind, kind=kind)
            for kind in step.get("options", ["allow_always", "allow_once", "reject_once", "reject_always"])
        ]
        call = schema.ToolCallUpdate(tool_call_id=step["ask"], **_call(step))
        answer = await self._client.request_permission(session_id=session, tool_call=call, options=options)
        said = getattr(answer.outcome, "option_id", answer.outcome.outcome)
        _note("answer", step["ask"], said)
        self._was_left = said == "cancelled"
        await self._client.session_update(session, acp.update_agent_message_text(f"{said}."))


def _call(step: Json) -> dict[str, Json]:
    places = [schema.ToolCallLocation(path=path) for path in step.get("paths", ())]
    call = {name: step[name] for name in ("title", "kind", "status") if name in step}
    return {**call, **({"locations": places} if places else {})}


def _update(step: Json) -> Json:
    match step:
        case {"say": text}:
            return acp.update_agent_message_text(text)
        case {"think": text}:
            return acp.update_agent_thought_text(text)
        case {"plan": entries}:
            return acp.update_plan([acp.plan_entry(content, status=status) for content, status in entries])
        case {"cost": amount}:
            cost = schema.Cost(amount=amount, currency=step.get("currency", "USD"))
            return schema.UsageUpdate(session_update="usage_update", used=1, size=2, cost=cost)
        case {"tool": tool, "title": _}:
            return schema.ToolCallStart(session_update="tool_call", tool_call_id=tool, **_call(step))
        case {"tool": tool}:
            return schema.ToolCallProgress(session_update="tool_call_update", tool_call_id=tool, **_call(step))
        case _:
            raise AssertionError(step)


async def _there(name: str) -> None:
    while not Path(name).exists():  # noqa: ASYNC110  another process makes it
        await asyncio.sleep(0.002)


def _note(*what: Json) -> None:
    with Path("journal").open("a", encoding="utf-8") as journal:
        journal.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    asyncio.run(acp.run_agent(TestAgent(json.loads(sys.argv[1])), use_unstable_protocol=True))  # type: ignore[arg-type]
