"""Which embedder the demo searches with: the configured sentence model if it can be opened here, else `lexical`."""

from __future__ import annotations

from pathlib import Path

from quarterdeck.storage.cache import TieredCache
from quarterdeck.storage.clock import SystemClock
from quarterdeck.storage.errors import DeckError

from ..config import Settings
from ..embedders import LEXICAL, configured_embedders

MODELS = "models"  # in a data directory


async def usable_embedder(settings: Settings, data_dir: Path) -> tuple[str, str]:
    """The value of QUARTERDECK_EMBEDDER for a server on `data_dir`, and a sentence about it.

    An endpoint is not used: the demo sends no texts elsewhere.
    """
    if settings.embedder == LEXICAL:
        return LEXICAL, "by words, not by meaning: QUARTERDECK_EMBEDDER names no sentence model"
    if not settings.embedder.startswith("semantic"):
        return LEXICAL, "by words, not by meaning: the configured embedder would send the texts elsewhere"
    models = settings.data_dir / MODELS
    embedders = configured_embedders(settings, models, TieredCache(SystemClock()))
    try:
        embedder = await embedders.named(None)
    except DeckError as exc:
        return LEXICAL, f"by words, not by meaning: {exc.message}"
    finally:
        await embedders.close()
    _share(models, data_dir)
    return settings.embedder, f"by meaning: {embedder.name} makes vectors of {embedder.dimension} numbers"


def _share(models: Path, data_dir: Path) -> None:
    """What was fetched once is not fetched again for the demo."""
    if models.is_dir():
        data_dir.mkdir(mode=0o700)
        (data_dir / MODELS).symlink_to(models)
