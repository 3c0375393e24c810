"""An S3 server (SeaweedFS) of the tests' own on loopback. It checks signatures, checksums and conditions."""

# pyright: reportUnknownMemberType=false
# boto3 has no annotations.

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from quarterdeck.storage.objects.s3_location import REGION, S3Location

ACCESS_KEY, SECRET_KEY = "tests", "tests-secret"
READY_LIMIT = 60.0  # seconds
PORTS = ("master.port", "volume.port", "filer.port", "s3.port", "admin.port")
GRPC = 10_000  # it listens on each port plus this, too


class SeaweedServer:
    """Runs from its making until `close`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="quarterdeck-seaweed-")
        weed = shutil.which("weed", path=sysconfig.get_path("scripts"))
        assert weed is not None
        ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        options = {
            "dir": self._folder.name,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "webdav": "false",
            "admin.ui": "false",
            "s3.port.iceberg": "0",
            "volume.max": "5000",  # seven a bucket; by itself it takes as many as fill the disk, which may be few
            **ports,
        }
        log = Path(self._folder.name) / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [weed, "mini", *(f"-{name}={value}" for name, value in options.items())],
                env={**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
                stdout=output,
                stderr=output,
            )
        self.port = ports["s3.port"]
        self._numbers = count()
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )
        deadline = time.monotonic() + READY_LIMIT
        while True:
            try:
                self.new_bucket()
                break
            except (BotoCoreError, ClientError):
                assert self._process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.05)

    def location(self, bucket: str, port: int | None = None) -> S3Location:
        """A bucket, reached through another `port` if given."""
        return S3Location(bucket, f"http://127.0.0.1:{port or self.port}", REGION, ACCESS_KEY, SECRET_KEY)

    def new_bucket(self) -> str:
        """The name of an empty bucket."""
        name = f"bucket-{next(self._numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str) -> list[str]:
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    def unfinished(self, bucket: str) -> list[str]:
        """The keys of multipart uploads that were begun and neither completed nor aborted."""
        return [entry["Key"] for entry in self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]

    def close(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def _free_ports(number: int) -> list[int]:
    """Ports that are free, and those that gRPC takes beside them."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < number:
            port = held.enter_context(socket.socket())
            port.bind(("127.0.0.1", 0))
            free = port.getsockname()[1]
            beside = held.enter_context(socket.socket())
            try:
                beside.bind(("127.0.0.1", free + GRPC))
            except (OSError, OverflowError):
                continue
            found.append(free)
    return found
