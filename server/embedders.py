"""The embedders that the settings name: `lexical` always, and the one of `QUARTERDECK_EMBEDDER`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quarterdeck.storage.cache import TieredCache
from quarterdeck.storage.lazy import OnFirstUse
from quarterdeck.tools.vectors.embedders.cached import CachingEmbedder
from quarterdeck.tools.vectors.embedders.offered import Embedders

from .config import Settings

if TYPE_CHECKING:  # they import numpy
    from quarterdeck.tools.vectors.embedders.base import Embedder

LEXICAL = "lexical"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def configured_embedders(settings: Settings, cache: Path, texts: TieredCache) -> Embedders:
    """Nothing is loaded or connected yet; models from the hub will be kept in `cache`, vectors of texts in `texts`."""
    choice, _, place = settings.embedder.partition("@")
    kind, _, model = choice.partition(":")

    async def open_lexical() -> Embedder:
        from quarterdeck.tools.vectors.embedders.lexical import LexicalEmbedder

        return LexicalEmbedder()

    async def open_semantic() -> Embedder:
        from quarterdeck.tools.vectors.embedders.semantic import SemanticEmbedder

        return CachingEmbedder(await SemanticEmbedder.open(name, model, folder, cache), texts)

    async def open_endpoint() -> Embedder:
        from quarterdeck.tools.vectors.embedders.endpoint import EndpointEmbedder

        key = settings.embedder_key
        secret = None if key is None else key.get_secret_value()
        return CachingEmbedder(
            await EndpointEmbedder.open(name, model, place, secret, settings.embedder_timeout), texts
        )

    folder = Path(place).expanduser() if place else None
    if kind == "semantic":
        model = model or DEFAULT_MODEL
    name = f"{kind}:{model}" if model else kind
    offered = {LEXICAL: OnFirstUse(open_lexical)}
    if kind != LEXICAL:
        offered[name] = OnFirstUse(open_semantic if kind == "semantic" else open_endpoint)
    return Embedders(offered, name)
