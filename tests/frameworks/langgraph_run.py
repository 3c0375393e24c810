"""The LangGraph example on LangChain's own fake chat model."""

import asyncio
from typing import Any

from script import answer_of, next_step

import langgraph_agent  # isort: skip  script.py knows where it is
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatResult


class ScriptedModel(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> "ScriptedModel":
        assert {"memory_usage", "query_wait", "vector_search"} <= {tool.name for tool in tools}
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        answers = [answer_of(message.content) for message in messages if isinstance(message, ToolMessage)]
        step = next_step(answers)
        if isinstance(step, str):
            message = AIMessage(step)
        else:
            calls = [{"name": step[0], "args": step[1], "id": f"call-{len(answers)}"}]
            message = AIMessage("", tool_calls=calls)
        self.messages = iter([message])
        return super()._generate(messages, *args, **kwargs)


print(asyncio.run(langgraph_agent.run(ScriptedModel(messages=iter([])))))
