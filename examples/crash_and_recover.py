"""What was acknowledged survives: remember, kill the server with SIGKILL, start it again, read.

python examples/crash_and_recover.py
"""

import asyncio
import tempfile
from pathlib import Path

from quarterdeck.server.client import DeckClient


async def main(data_dir: Path) -> None:
    async with DeckClient(data_dir) as deck:
        stored = await deck.call("memory_usage", action="store", key="course", value={"heading": 270, "knots": 12})
        print("stored version", stored["version"])
        await deck.kill()
        print("the server is dead")
        await deck.start()
        found = await deck.call("memory_usage", action="retrieve", key="course")
        print("found", found["value"], "version", found["version"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
