"""Prompts that help a person start: each is a plan of calls to the deck's tools, made from a few arguments."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    Completion,
    CompletionArgument,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from quarterdeck.tools.agents.builtin.catalogue import CREWS, TYPES
from quarterdeck.tools.memory.resource import Completions

from .resources import completion, refusals

Complete = Callable[[str], Awaitable[Completions]]
"""The names that begin with what was typed."""


@dataclass(frozen=True, slots=True)
class _Plan:
    prompt: Prompt
    defaults: Mapping[str, str]  # of the arguments that may be left out
    write: Callable[[Mapping[str, str]], str]


class Prompts:
    """What a `DeckServer` answers about prompts."""

    def __init__(self, types: Sequence[str], completions: Mapping[str, Complete]) -> None:
        """`types` can be spawned; `completions` has those of the arguments of that name, whatever the prompt."""
        self._types = types
        self._completions = {"type": self._complete_type, **completions}
        self._plans = {plan.prompt.name: plan for plan in _PLANS}

    def list(self) -> list[Prompt]:
        return [plan.prompt for plan in self._plans.values()]

    def get(self, name: str, arguments: Mapping[str, Any]) -> GetPromptResult:
        """Raises MCPError if there is no such prompt, or an argument is missing, unknown or cannot be used."""
        plan = self._plan(name)
        known = [argument.name for argument in plan.prompt.arguments or ()]
        given = {key: str(value).strip() for key, value in arguments.items()}
        for key in given:
            if key not in known:
                raise MCPError(INVALID_PARAMS, f"unknown argument {key!r} of {name} (arguments: {', '.join(known)})")
        values = {**plan.defaults, **{key: value for key, value in given.items() if value}}
        for key in known:
            if key not in values:
                raise MCPError(INVALID_PARAMS, f"{key}: {name} needs it")
        if values.get("type", self._types[0]) not in self._types:
            raise MCPError(INVALID_PARAMS, f"type: no {values['type']!r} (types: {', '.join(self._types)})")
        text = TextContent(type="text", text=plan.write(values))
        return GetPromptResult(description=plan.prompt.description, messages=[PromptMessage(role="user", content=text)])

    async def complete(self, name: str, argument: CompletionArgument) -> Completion:
        """What an argument can be; nothing for free text."""
        known = [known.name for known in self._plan(name).prompt.arguments or ()]
        if argument.name not in known:
            raise MCPError(INVALID_PARAMS, f"argument: {argument.name!r} is not of {name} ({', '.join(known)})")
        complete = self._completions.get(argument.name)
        if complete is None:
            return Completion(values=[], total=0, has_more=False)
        with refusals():
            return completion(await complete(argument.value))

    def _plan(self, name: str) -> _Plan:
        if name not in self._plans:
            raise MCPError(INVALID_PARAMS, f"no prompt {name!r} (prompts: {', '.join(self._plans)})")
        return self._plans[name]

    async def _complete_type(self, typed: str) -> Completions:
        return Completions([name for name in self._types if name.startswith(typed)], has_more=False)


def _review_crew(values: Mapping[str, str]) -> str:
    document = values["document"]
    is_key = document.startswith("uploads/")
    upload = (
        "" if is_key else f"   First {_call('upload', files=[{'path': document}])}; KEY is the `path` it answers.\n"
    )
    key = document if is_key else "KEY"
    starts = "".join(
        f"   - {member.type}: {_call('query_start', agentId='ID', prompt=_work(member.type, upload=key))}\n"
        for member in CREWS["documents"]
    )
    verdict = _call(
        "memory_usage",
        action="store",
        namespace=values["namespace"],
        key=f"review of {document}"[:512],
        value="VERDICT",
    )
    return (
        f"Have a crew of agents review {document}, and remember the verdict. Call the quarterdeck tools:\n\n"
        f"1. {_call('agents_spawn_parallel', crew='documents')}. Keep each agentId; go on without agents that failed.\n"
        f"2. A query for each, so that they work side by side; ID is the agentId of that type.\n{upload}{starts}"
        f"3. {_call('query_wait', queryIds=['…'], timeout=60)} with all queryIds, again while any is pending.\n"
        "4. Weigh the findings: defects with their lines first, then wording and structure. Say which agent saw what, "
        "and where they disagree.\n"
        f"5. {verdict} with your verdict.\n"
        f"6. {_call('agents_stop', agentIds=['…'])}. Answer with the verdict, and name whatever failed."
    )


def _index_folder(values: Mapping[str, str]) -> str:
    collection = values["collection"]
    upload = _call("upload", files=[{"path": "…"}], index=collection)
    search = _call("vector_search", collection=collection, query="…", limit=5, mode="hybrid")
    return (
        f"Make the documents below {values['folder']} searchable in the collection {collection}. Call the quarterdeck "
        "tools:\n\n"
        "1. Find the files: Markdown, code and other text, PDF, DOCX, HTML. If you cannot list the folder, ask for "
        "their paths.\n"
        f"2. {upload}, at most 20 files and 100 MB each in one call, until all are stored. Status 207 means that some "
        "failed: keep their warnings. A refusal that names QUARTERDECK_UPLOAD_ROOTS means that the folder is not "
        "allowed: tell me.\n"
        f"3. {_call('vector_collections', action='describe', collection=collection)} shows how many points there are.\n"
        f"4. Try it: three questions that the documents should answer, each by {search} (on a Qdrant server without "
        "mode).\n"
        "5. Answer with the files, the points, what failed and why, and the best hit of each question."
    )


def _research_run(values: Mapping[str, str]) -> str:
    kind, namespace, question = values["type"], values["namespace"], values["question"]
    budget = {"wallSeconds": _number(values, "seconds")}
    if values["tokens"]:
        budget["tokens"] = _number(values, "tokens")
    agents = [{"type": kind, "name": f"research-{number}", "budget": budget} for number in (1, 2, 3)]
    within = {"collection": values["collection"]} if values["collection"] else {}
    prompt = _work(kind, query="PART", **within) if kind == "query_specialist" else "PART"
    known = _call("memory_usage", action="search", namespace=namespace, query="…")
    kept = _call("memory_usage", action="store", namespace=namespace, key="…", value="…", ttl=0)
    where = f" in the collection {values['collection']}" if within else ""
    return (
        f"Research this question{where} within a budget: {question}\n\nCall the quarterdeck tools:\n\n"
        f"1. {known}, with the words that matter: what is known needs no second search.\n"
        f"2. {_call('agents_spawn_parallel', agents=agents)}. The budget holds for all queries of an agent.\n"
        "3. Split the question into three parts, one for each: "
        f"{_call('query_start', agentId='ID', prompt=prompt)}; PART is the part.\n"
        f"4. {_call('query_wait', queryIds=['…'], timeout=60)}, again while any is pending. A query that its budget "
        "has paused or ended is not resumed with a larger one unless I say so; use what it has found.\n"
        f"5. {kept}: the answer with its sources, under a key that names the question.\n"
        f"6. {_call('agents_stop', agentIds=['…'])}. Answer the question from what was found, with sources, say what "
        "stays open, and what `usage` the queries report."
    )


def _call(tool: str, **arguments: Any) -> str:
    return f"{tool} {json.dumps(arguments, ensure_ascii=False)}"


def _work(agent_type: str, **fields: str) -> str:
    """A prompt for the first capability of a built-in type."""
    return json.dumps({"do": next(iter(TYPES[agent_type].capabilities)), **fields}, ensure_ascii=False)


def _number(values: Mapping[str, str], name: str) -> int:
    text = values[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= 13 and 0 < int(text) <= 10**12):
        raise MCPError(INVALID_PARAMS, f"{name}: must be a whole number from 1 to 10^12, got {text[:40]!a}")
    return int(text)


def _plan(
    name: str,
    title: str,
    description: str,
    write: Callable[[Mapping[str, str]], str],
    arguments: Mapping[str, str],
    **defaults: str,
) -> _Plan:
    shown = [
        PromptArgument(name=argument, description=meaning, required=argument not in defaults)
        for argument, meaning in arguments.items()
    ]
    return _Plan(Prompt(name=name, title=title, description=description, arguments=shown), defaults, write)


_PLANS = (
    _plan(
        "review_crew",
        "Review a document with a crew",
        "Five agents look at one document side by side; the verdict is remembered.",
        _review_crew,
        {
            "document": "an upload's key, or the path of a file below the allowed folders",
            "namespace": "of the memory that keeps the verdict (default: reviews)",
        },
        namespace="reviews",
    ),
    _plan(
        "index_folder",
        "Make a folder searchable",
        "Uploads the documents of a folder, indexes them, and tries the search.",
        _index_folder,
        {"folder": "below the allowed folders", "collection": "of vectors that takes them in (default: library)"},
        collection="library",
    ),
    _plan(
        "research_run",
        "Research within a budget",
        "Three agents work on parts of a question within a budget; the answer is remembered.",
        _research_run,
        {
            "question": "what you want to know",
            "type": "of the agents (default: query_specialist, which searches collections)",
            "collection": "of vectors to look in (default: the agents' own choice)",
            "namespace": "of the memory that has what is known and keeps the answer (default: research)",
            "seconds": "of work that each agent may use (default: 300)",
            "tokens": "that each agent on a model may use (default: no limit)",
        },
        type="query_specialist",
        collection="",
        namespace="research",
        seconds="300",
        tokens="",
    ),
)
