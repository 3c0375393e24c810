"""What the server imports before its first answer: a client waits for every millisecond of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.raw_client import ERAS, Era, RawClient

HEAVY = {
    "aioboto3", "aiobotocore", "asyncpg", "botocore", "faiss", "fastembed", "httpx", "numpy", "prometheus_client",
    "pydantic_ai", "qdrant_client", "redis", "stamina",
}  # fmt: skip
"""What is imported when a call needs it. What the SDK imports is there anyway."""

# Serves as the `quarterdeck` command does, then shows what was imported.
SERVE = """
import json, sys
from quarterdeck.server.cli import main
code = main(["serve"])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("module", ["config", "keep", "backup", "doctor"])
def test_commands_that_serve_nobody_do_not_import_the_sdk(module: str) -> None:
    code = f"import sys, quarterdeck.server.{module}; sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("era", ERAS)
def test_nothing_heavy_is_imported_before_the_first_answer(era: Era, tmp_path: Path) -> None:
    environment = {"QUARTERDECK_DATA_DIR": str(tmp_path / "data")}
    with RawClient([sys.executable, "-c", SERVE], era, environment=environment, errors=tmp_path / "stderr") as server:
        assert server.startup > 0  # it has answered
    imported = set(json.loads((tmp_path / "stderr").read_text().splitlines()[-1]))
    assert {"mcp", "quarterdeck"} <= imported
    assert imported & HEAVY == set()
