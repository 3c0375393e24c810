"""The Pydantic AI example on its own `FunctionModel`."""

import asyncio

from script import answer_of, next_step

import pydantic_ai_agent  # isort: skip  script.py knows where it is
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    assert {"memory_usage", "query_wait", "vector_search"} <= {tool.name for tool in info.function_tools}
    returns = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
    step = next_step([answer_of(part.content) for part in returns])
    return ModelResponse(parts=[TextPart(step) if isinstance(step, str) else ToolCallPart(*step)])


print(asyncio.run(pydantic_ai_agent.run(FunctionModel(answer))))
