"""Names of models: three sizes, the aliases for them, and what a type's configuration makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from quarterdeck.storage.errors import InvalidArgumentError

Size = Literal["small", "medium", "large"]
SIZES: tuple[Size, ...] = get_args(Size)
FAMILIES: Mapping[str, Size] = {"haiku": "small", "sonnet": "medium", "opus": "large"}


def resolve(name: str, models: Mapping[str, str]) -> str:
    """The model that a type's `models` (size or name of the user's own -> model) has for `name`.

    Raises:
        InvalidArgumentError: it has none; a client picks names, the configuration says what they mean.
    """
    found = models.get(name) or models.get(FAMILIES.get(name, name))
    if found is None and name in models.values():
        found = name
    if found is None:
        aliases = [alias for alias, size in FAMILIES.items() if size in models]
        valid = ", ".join(dict.fromkeys([*models, *aliases, *models.values()])) or "none: agents of this type have none"
        raise InvalidArgumentError(f"unknown model {name!r} (valid: {valid})")
    return found


def size_of(model: str | None, models: Mapping[str, str] | None = None) -> Size | None:
    """The size that a model stands for: by the configuration, else by an alias or a family in its name."""
    if model is None:
        return None
    for size in SIZES:
        if model in (size, (models or {}).get(size)):
            return size
    return next((size for family, size in FAMILIES.items() if family in model.lower()), None)
