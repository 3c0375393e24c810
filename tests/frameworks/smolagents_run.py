"""The smolagents example on a scripted `Model`."""

from typing import Any

from script import answer_of, next_step

import smolagents_agent  # isort: skip  script.py knows where it is
from smolagents import ChatMessage, Model
from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole


class ScriptedModel(Model):
    def generate(self, messages: list[ChatMessage], *args: Any, **kwargs: Any) -> ChatMessage:
        texts = [block["text"] for m in messages if m.role == MessageRole.TOOL_RESPONSE for block in m.content]
        step = next_step([answer_of(text.removeprefix("Observation:\n")) for text in texts])
        if isinstance(step, str):
            step = ("final_answer", {"answer": step})
        function = ChatMessageToolCallFunction(name=step[0], arguments=step[1])
        call = ChatMessageToolCall(id=f"call-{len(texts)}", type="function", function=function)
        return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=[call])


print(smolagents_agent.run(ScriptedModel(model_id="scripted")))
