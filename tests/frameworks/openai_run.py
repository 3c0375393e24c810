"""The example of the OpenAI Agents SDK on a scripted `Model`."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from script import answer_of, next_step

import openai_agent  # isort: skip  script.py knows where it is
from agents import Model, ModelResponse, Usage, set_tracing_disabled
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText


class ScriptedModel(Model):
    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        outputs = [
            item["output"] for item in input if not isinstance(item, str) and item.get("type") == "function_call_output"
        ]
        step = next_step([answer_of(output) for output in outputs])
        if isinstance(step, str):
            text = ResponseOutputText(type="output_text", text=step, annotations=[])
            item = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[text])
        else:
            item = ResponseFunctionToolCall(
                type="function_call", call_id=f"call-{len(outputs)}", name=step[0], arguments=json.dumps(step[1])
            )
        return ModelResponse(output=[item], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise AssertionError("the example does not stream")


set_tracing_disabled(disabled=True)
print(asyncio.run(openai_agent.run(ScriptedModel())))
