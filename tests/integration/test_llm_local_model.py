"""An agent on a real model: SmolLM2-135M on llama.cpp's own server. Too small for tools, it is given none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quarterdeck.tools.agents.runners.base import AgentSpec, Work, WorkCancelledError
from quarterdeck.tools.agents.runners.llm.config import LlmType
from quarterdeck.tools.agents.runners.llm.runner import LlmRunner
from tests.servers.llama import LENGTH, LlamaServer
from tests.until import until


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaServer]:
    server = LlamaServer()
    yield server
    server.close()


@pytest.mark.slow
async def test_a_real_model_streams_holds_tells_its_usage_and_is_given_up(llama: LlamaServer, tmp_path: Path) -> None:
    kind = LlmType(runner="llm", model="any", base_url=llama.url)
    runner = LlmRunner({"teller": kind}, list)
    agent = await runner.start(AgentSpec("teller-1", "teller", "Tim", str(tmp_path)), no_deck)
    progress = list[dict[str, Any]]()
    usage = list[dict[str, float]]()
    models = list[str]()

    async def in_budget() -> None:
        pass

    def tell(query: str) -> asyncio.Task[Any]:
        progress.clear()
        work = Work(
            query,
            "Tell me of a ship.",
            on_progress=progress.append,
            on_usage=usage.append,
            on_model=models.append,
            on_session=lambda _session: None,
            before_request=in_budget,
        )
        return asyncio.create_task(agent.run(work))

    telling = tell("q1")
    await until(lambda: progress, seconds=60)
    outcome = await agent.pause("hold")  # its boundary is the end of the answer
    assert outcome.get("status") == "applied"
    assert not llama.is_busy()
    story = await telling
    assert len(story) > LENGTH
    assert len(progress) > LENGTH / 2
    assert usage[0]["tokens"] > LENGTH
    assert llama.metric("tokens_predicted_total") == LENGTH
    assert "usd" not in usage[0]
    assert models == ["smollm2"]  # as the server says, whatever it was asked for
    await agent.resume()

    telling = tell("q2")
    await until(lambda: progress, seconds=60)
    assert llama.is_busy()
    await agent.cancel("q2")
    with pytest.raises(WorkCancelledError):
        await telling
    await until(lambda: not llama.is_busy())
    assert llama.metric("tokens_predicted_total") < 2 * LENGTH
    await agent.end(grace=0)


async def no_deck(tool: str, arguments: dict[str, Any]) -> Any:
    raise AssertionError(f"no tool was offered, and {tool} was called")
