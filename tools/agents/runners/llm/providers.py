"""From a model's name in the configuration to the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import Provider, infer_provider_class

from quarterdeck.storage.errors import InvalidArgumentError

from .config import LlmType

SERVER = "base_url"  # the provider of models that a server of the user's own has


def connect(kind: LlmType, name: str) -> Model:
    """The model `name` of `kind`; nothing is sent yet. May take 0.1 s (certificates, prices): call it in a thread.

    Raises:
        InvalidArgumentError: there is no such provider, or its package or its key is missing.
    """
    if kind.base_url is not None:
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

        key = _key(kind, SERVER)
        return OpenAIChatModel(name, provider=OpenAICompatibleProvider(SERVER, base_url=kind.base_url, api_key=key))

    def provider(provider_name: str) -> Provider[Any]:
        # Without its key a provider would look for one in the environment that the configuration does not name.
        make = cast("Callable[..., Provider[Any]]", infer_provider_class(provider_name))
        return make(api_key=_key(kind, provider_name))

    try:
        return infer_model(name, provider)
    except (UserError, ValueError) as exc:
        raise InvalidArgumentError(f"{name}: {exc}") from None
    except ImportError as exc:
        raise InvalidArgumentError(f"{name}: a package for this provider is missing: {exc}") from None
    except TypeError:  # its class takes no key
        raise InvalidArgumentError(f"{name}: this provider needs more than a key, which agents cannot have") from None


def _key(kind: LlmType, provider: str) -> str | None:
    variable = kind.key_variable(provider)
    if variable is None:
        return None
    if not (key := _read(variable)):
        raise InvalidArgumentError(f"the environment variable {variable}, which api_key_env names, is not set")
    if not (key.isascii() and key.isprintable()):
        raise InvalidArgumentError(f"the environment variable {variable}, which api_key_env names, holds no key")
    return key


def keys(kind: LlmType) -> list[str]:
    """What must be in no text."""
    variables = [kind.api_key_env] if isinstance(kind.api_key_env, str) else kind.api_key_env.values()
    return [key for variable in variables if (key := _read(variable))]


def _read(variable: str) -> str:
    return os.environ.get(variable, "").strip()  # files of variables leave line ends
