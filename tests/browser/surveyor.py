"""An agent type for the pages under test: works in steps, tells how far it is and what it has used, follows set_model.

The prompt is JSON: {"steps": number, "pause": seconds of each, "fail": text?}. It stands between two steps while it is
held. It does not listen to `cancel`: to terminate it takes the end of its process.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

released = threading.Event()
model = ["small-1"]
pace = threading.Event()  # never set: a wait on it is a sleep


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def work(task: str, steps: int, pause: float, fail: str | None) -> None:
    said = ""
    for step in range(1, steps + 1):
        if not released.is_set():
            say(type="held", id=task)
            released.wait()
            say(type="released", id=task)
        if model[0] != said:
            said = model[0]
            say(type="model", id=task, model=said)
        say(type="progress", id=task, done=step, total=steps, message=f"line {step // 50 + 1}")
        say(type="usage", id=task, tokens=step * 137, usd=round(step * 0.00041, 6))
        pace.wait(pause)
    if fail is not None:
        say(type="error", id=task, error=fail)
    else:
        say(type="result", id=task, result={"sheets": steps, "soundings": steps * 48})


def main() -> None:
    released.set()
    for line in sys.stdin:
        message = json.loads(line)
        match message["type"]:
            case "start":
                say(type="ready", protocol=1, capabilities=[], controls=["hold", "set_model"])
            case "task":
                asked = json.loads(message["prompt"])
                given = (message["id"], asked["steps"], asked["pause"], asked.get("fail"))
                threading.Thread(target=work, args=given, daemon=True).start()
            case "hold":
                released.clear()
            case "release":
                released.set()
            case "set_model":
                model[0] = message["model"]
            case "stop":
                return
            case _:
                pass


if __name__ == "__main__":
    main()
