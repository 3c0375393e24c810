"""Text out of documents."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from quarterdeck.tools.uploads.chunks import chunks
from quarterdeck.tools.uploads.extract import extract


def extract_text(contents: str, name: str, content_type: str | None) -> dict[str, Any]:
    """See `extract`; `contents` is base64. Returns `{format, title, sections: [{text, page}]}`."""
    extracted = extract(b64decode(contents), name, content_type)
    return {**extracted._asdict(), "sections": [section._asdict() for section in extracted.sections]}


def extract_chunks(contents: str, name: str, content_type: str | None) -> dict[str, Any]:
    """The same as pieces to be found: `{title, chunks: [{text, page}]}`."""
    extracted = extract(b64decode(contents), name, content_type)
    found = [{"text": text, "page": section.page} for section in extracted.sections for text in chunks(section.text)]
    return {"title": extracted.title, "chunks": found}
