"""Logs: one JSON object a line, on stderr only (stdout is the wire)."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(level: str) -> None:
    """Send every logger's records to stderr from `level` up. Call it before the SDK sets up its own handler."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # tells of every CPU variant that it tries
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # would tell the values that are read and written
    logging.getLogger("httpx").setLevel(logging.WARNING)  # tells of every request
