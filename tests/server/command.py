"""The `quarterdeck` command, run to its end in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(command: str, data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quarterdeck.server", command],
        env={**os.environ, "QUARTERDECK_DATA_DIR": str(data_dir), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
