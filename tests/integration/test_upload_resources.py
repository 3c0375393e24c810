"""Uploads as resources, through a real server in both eras."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from mcp import MCPError
from mcp_types import BlobResourceContents, ResourceTemplateReference, TextResourceContents

from quarterdeck.server.client import DeckClient, Era
from quarterdeck.tools.uploads.resource import RESOURCE_BYTES, TEMPLATE, uri_of
from tests.here import DeckHere

ERAS: tuple[Era, ...] = ("auto", "legacy")
pytestmark = pytest.mark.parametrize("era", ERAS)


async def upload(deck: DeckClient, name: str, contents: bytes) -> str:
    file = {"name": name, "content": base64.b64encode(contents).decode(), "encoding": "base64"}
    return str((await deck.call("upload", files=[file]))["files"][0]["path"])


async def refusal(deck: DeckClient, uri: str) -> str:
    with pytest.raises(MCPError) as refused:
        await deck.client.read_resource(uri)
    return refused.value.error.message


async def test_text_and_bytes_are_read(tmp_path: Path, era: Era) -> None:
    noise = bytes(range(256))
    async with DeckHere(tmp_path, era=era) as deck:
        text, raw = await upload(deck, "naïve ü.md", "# é 🚢".encode()), await upload(deck, "raw", noise)
        [read] = (await deck.client.read_resource(uri_of(text))).contents
        assert isinstance(read, TextResourceContents)
        assert (read.uri, read.mime_type, read.text) == (uri_of(text), "text/markdown", "# é 🚢")
        assert read.meta is not None
        assert (read.meta["originalName"], read.meta["size"]) == ("naïve ü.md", 9)
        assert read.meta["sha256"] == hashlib.sha256("# é 🚢".encode()).hexdigest()
        [plain] = (await deck.client.read_resource(f"upload://{text}")).contents  # the slash as it is
        assert isinstance(plain, TextResourceContents)
        [blob] = (await deck.client.read_resource(uri_of(raw))).contents
        assert isinstance(blob, BlobResourceContents)
        assert (base64.b64decode(blob.blob), blob.mime_type) == (noise, "application/octet-stream")


async def test_what_is_no_upload_is_refused(tmp_path: Path, era: Era) -> None:
    async with DeckHere(tmp_path, era=era) as deck:
        large = await upload(deck, "large", bytes(RESOURCE_BYTES))
        assert len((await deck.client.read_resource(uri_of(large))).contents) == 1
        (tmp_path / "root").mkdir()
    async with DeckHere(tmp_path, era=era, environment={"QUARTERDECK_UPLOAD_ROOTS": str(tmp_path / "root")}) as deck:
        (tmp_path / "root" / "larger").write_bytes(bytes(RESOURCE_BYTES + 1))
        larger = (await deck.call("upload", files=[{"path": "larger"}]))["files"][0]["path"]
        assert "read ranges of it by `uploads`" in await refusal(deck, uri_of(larger))
        for uri, expected in (
            (uri_of("uploads/none"), "there is no upload 'uploads/none'"),
            (uri_of("uploads/../../etc/passwd"), "is no upload's"),
            (uri_of("/etc/passwd"), "is no upload's"),
            ("upload://", "the key percent-encoded"),
            ("upload://%FF", "the key percent-encoded"),
            ("upload://uploads%2Fa?x", "the key percent-encoded"),
        ):
            assert expected in await refusal(deck, uri), uri


async def test_keys_complete_and_the_template_is_listed(tmp_path: Path, era: Era) -> None:
    async with DeckHere(tmp_path, era=era) as deck:
        keys = sorted([await upload(deck, f"{number}.txt", b"x") for number in range(3)])
        templates = (await deck.client.list_resource_templates()).resource_templates
        assert TEMPLATE in [template.uri_template for template in templates]

        async def complete(typed: str, argument: str = "key") -> list[str]:
            reference = ResourceTemplateReference(uri=TEMPLATE)
            return (await deck.client.complete(reference, {"name": argument, "value": typed})).completion.values

        assert await complete("") == await complete("up") == await complete("uploads/") == keys
        assert await complete(keys[1][:-4]) == [keys[1]]
        assert await complete("/etc") == await complete("uploads/1999") == []
        with pytest.raises(MCPError, match="'name' is not in the template"):
            await complete("", "name")
