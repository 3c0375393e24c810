"""Settings: environment over TOML over default. The names are a contract; the README's table is tested against them."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from quarterdeck.storage.errors import DeckError, InvalidArgumentError
from quarterdeck.storage.objects.s3_location import REGION, S3Location
from quarterdeck.storage.sqlite import Durability
from quarterdeck.tools.memory.checks import MAX_VALUE_BYTES

from .setting_types import (
    Agents,
    AgentsTable,
    CacheUrl,
    Embedder,
    Http,
    Optimizer,
    OptimizerTable,
    SyncUrl,
    TelemetryUrl,
    UserPath,
    UserPaths,
    VectorsUrl,
)
from .web.tokens import HttpTable, Keyring

PREFIX = "QUARTERDECK_"
WEEK = 7 * 24 * 3600
_BUDGET = "{} that all queries of a server may use from its start to its end; 0: no limit"


class SettingsError(DeckError):
    """The environment or the TOML file holds something that cannot be used; one line says what."""

    code = "settings"


def _default_data_dir() -> Path:
    import platformdirs  # used only where no folder is set

    return Path(platformdirs.user_data_dir("quarterdeck", appauthor=False))


def _default_roots() -> list[Path]:
    """The working directory, unless that would open a whole disk or home."""
    here = Path.cwd().resolve()
    return [] if here in (Path(here.anchor), Path.home().resolve()) else [here]


class Settings(BaseSettings):
    """What two users would want differently. Field `x` is `QUARTERDECK_X` (flags: `FEATURE_…`) and TOML key `x`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", validate_by_name=True, validate_by_alias=True, env_ignore_empty=True
    )

    data_dir: UserPath = Field(default_factory=_default_data_dir, description="folder of everything that is kept")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="least level logged to stderr"
    )
    memory_url: str | None = Field(
        default=None,
        description="where memory is kept: `sqlite:///…`, `postgresql://…`, `redis://…`, `rediss://…` or `unix:///…`",
    )
    memory_default_ttl: int = Field(
        default=WEEK, ge=0, description="seconds a memory lives unless told; 0 keeps for ever"
    )
    memory_restore_window: int = Field(
        default=86_400,
        ge=0,
        description="seconds a deleted, replaced or expired memory stays restorable; 0 turns it off",
    )
    memory_max_value_bytes: int = Field(
        default=MAX_VALUE_BYTES, ge=1, le=MAX_VALUE_BYTES, description="bytes of JSON that one memory may hold"
    )
    memory_max_namespace_entries: int = Field(
        default=0, ge=0, description="memories that a namespace may hold; 0: no limit"
    )
    memory_max_namespace_bytes: int = Field(
        default=0, ge=0, description="bytes of values that a namespace may hold; 0: no limit"
    )
    durability: Durability = Field(
        default="process",
        description="`process`: acknowledged memory and records of agents survive a killed server; "
        "`power`: a loss of power too",
    )
    objects_url: str | None = Field(
        default=None,
        description="where uploads are kept: `s3://bucket?endpoint=https://host:port&region=us-east-1`; wins over "
        "`MINIO_ENDPOINT` and `MINIO_BUCKET`",
    )
    minio_endpoint: str | None = Field(
        default=None, validation_alias="MINIO_ENDPOINT", description="`http://…` or `https://…` of an S3 server"
    )
    minio_bucket: str = Field(
        default="aeon-documents", validation_alias="MINIO_BUCKET", description="bucket at `MINIO_ENDPOINT`"
    )
    minio_access_key: SecretStr | None = Field(
        default=None, validation_alias="MINIO_ACCESS_KEY", description="access key for any S3 server, AWS included"
    )
    minio_secret_key: SecretStr | None = Field(
        default=None, validation_alias="MINIO_SECRET_KEY", description="secret key for it; there are no default keys"
    )
    upload_roots: UserPaths = Field(
        default_factory=_default_roots,
        description="folders that `upload` may read paths from, separated by `:`, on Windows by `;`",
    )
    embedder: Embedder = Field(
        default="lexical", description="what makes vectors of [texts](#embedders) in new collections"
    )
    embedder_key: SecretStr | None = Field(default=None, description="API key of an embedder's endpoint")
    embedder_timeout: float = Field(
        default=30, gt=0, description="seconds that an embedder's endpoint may take for one request"
    )
    vectors_url: VectorsUrl | None = Field(
        default=None, description="a Qdrant server that keeps vectors: `http(s)://host:port`"
    )
    vectors_key: SecretStr | None = Field(default=None, description="API key of that server")
    cache_url: CacheUrl | None = Field(
        default=None,
        description="a cache that decks share, of searches on that server and of vectors of texts: `redis://…`, "
        "`rediss://…` or `unix:///…`",
    )
    sync_url: SyncUrl | None = Field(
        default=None,
        description="another store of vectors, which `synchronization` agents call `sync:`: a Qdrant server, "
        "`http(s)://…`, or a file, `sqlite:///…`",
    )
    sync_key: SecretStr | None = Field(default=None, description="API key of that server")
    http_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="where `serve --http` listens; others than this machine need a token",
    )
    http_port: int = Field(default=8765, ge=0, le=65_535, description="its port; 0: any that is free")
    http_token: SecretStr | None = Field(
        default=None, min_length=1, description="what callers must send as `Authorization: Bearer …`"
    )
    http_rate: float = Field(
        default=200, ge=0, description="requests a second that a caller may make, and five times that at once; 0: any"
    )
    http: Http = Field(
        default_factory=HttpTable,
        description="[more tokens](#over-http), each with a name and its rights; the variable takes JSON",
    )
    telemetry_url: TelemetryUrl | None = Field(
        default=None,
        description="an OpenTelemetry collector that spans and metrics are sent to, by OTLP over HTTP: `http(s)://…`",
    )
    telemetry_content: bool = Field(
        default=False, description="on: spans hold what agents are asked, answer and call tools with"
    )
    runs_history: int = Field(
        default=30 * 24 * 3600,
        ge=0,
        description="seconds that ended agents and queries, their results and events are kept; 0: for ever",
    )
    agents: Agents = Field(
        default_factory=AgentsTable,
        description="agent types of [your own](#your-own-agent-types); the variable takes JSON",
    )
    agents_idle_timeout: float = Field(default=900, gt=0, description="seconds after which an agent without work stops")
    optimizer: Optimizer = Field(
        default_factory=OptimizerTable,
        description="rules of [your own](#the-optimizer); the variable takes JSON",
    )
    budget_tokens: int = Field(default=0, ge=0, description=_BUDGET.format("tokens"))
    budget_usd: float = Field(default=0, ge=0, description=_BUDGET.format("US dollars"))
    budget_wall_seconds: float = Field(default=0, ge=0, description=_BUDGET.format("seconds of work"))
    budget_output_bytes: int = Field(default=0, ge=0, description=_BUDGET.format("bytes of results"))
    agents_max_alive: int = Field(default=100, ge=1, description="agents alive at once")
    feature_parallel_spawning: bool = Field(
        default=True, validation_alias="FEATURE_PARALLEL_SPAWNING", description="off: agents start one after another"
    )
    feature_agentdb_search: bool = Field(
        default=True,
        validation_alias="FEATURE_AGENTDB_SEARCH",
        description="off: every search compares all vectors, as `precision` exact does",
    )
    feature_agentdb_batch_insert: bool = Field(
        default=True,
        validation_alias="FEATURE_AGENTDB_BATCH_INSERT",
        description="off: the points of a call are written one by one, still all or none",
    )
    feature_agentdb_large_query: bool = Field(
        default=True,
        validation_alias="FEATURE_AGENTDB_LARGE_QUERY",
        description="off: the queries of a call are searched one by one",
    )
    feature_query_control: bool = Field(
        default=True, validation_alias="FEATURE_QUERY_CONTROL", description="off: `query_control` is not offered"
    )
    feature_adaptive_opt: bool = Field(
        default=True, validation_alias="FEATURE_ADAPTIVE_OPT", description="off: no optimizer rule acts"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=read_toml())


def config_file() -> Path | None:
    """The TOML file that the environment names."""
    name = os.environ.get(PREFIX + "CONFIG")
    return Path(name).expanduser() if name else None


def read_toml() -> dict[str, Any]:
    """Read the TOML file.

    Raises:
        SettingsError: it is named but missing or not TOML.
    """
    path = config_file()
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{PREFIX}CONFIG: cannot read {path}: {exc}") from exc


def load_settings() -> Settings:
    """Read and check all settings.

    Raises:
        SettingsError: one line that names each bad setting and why.
    """
    try:
        return Settings()
    except ValidationError as exc:
        raise SettingsError("; ".join(_explain(error) for error in exc.errors(include_url=False))) from None


def environment_name(field: str) -> str:
    """The environment variable that sets `field`."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field.upper()


def flags(settings: Settings) -> dict[str, bool]:
    """Every feature flag, by its variable."""
    return {
        environment_name(name): getattr(settings, name) for name in Settings.model_fields if name.startswith("feature_")
    }


def keyring(settings: Settings) -> Keyring:
    """The tokens that open the HTTP doors."""
    return Keyring(settings.http_token, settings.http)


def objects_bucket(settings: Settings) -> S3Location | None:
    """The bucket that the settings name; None if they name none.

    Raises:
        SettingsError: they are not complete or cannot be read; the text holds no key.
    """
    url, endpoint = settings.objects_url, settings.minio_endpoint
    if url is None and endpoint is None:
        return None
    name = environment_name("minio_endpoint" if url is None else "objects_url")
    if settings.minio_access_key is None or settings.minio_secret_key is None:
        raise SettingsError(f"{name} needs MINIO_ACCESS_KEY and MINIO_SECRET_KEY: there are no default keys")
    keys = settings.minio_access_key.get_secret_value(), settings.minio_secret_key.get_secret_value()
    try:
        return (
            S3Location(settings.minio_bucket, endpoint, REGION, *keys) if url is None else S3Location.parse(url, *keys)
        )
    except InvalidArgumentError as exc:
        raise SettingsError(f"{name}: {exc.message}") from None


def _explain(error: ErrorDetails) -> str:
    """What is wrong with one setting, by the name under which the user gave it."""
    name = str(error["loc"][0])
    field = (
        name
        if name in Settings.model_fields
        else next((f for f in Settings.model_fields if environment_name(f) == name), None)
    )
    if field is None:
        return f"{config_file()}: there is no setting {name!r} (valid: {', '.join(Settings.model_fields)})"
    variable = environment_name(field)
    given = variable if os.environ.get(variable) else f"{config_file()}: {field}"
    inside = error["loc"][1:]
    if field == "agents" and inside[:1] == ("types",):
        inside = (*inside[:2], *inside[3:])  # pydantic puts the tag of the union between
    where = ".".join([given, *map(str, inside)])
    unknown = error["type"] == "extra_forbidden"
    return f"{where}: {'there is no such key' if unknown else error['msg'].removeprefix('Value error, ')}"


def sources(settings: Settings) -> dict[str, str]:
    """Where each field's value came from: `environment`, `file` or `default`."""
    from_file = read_toml()
    return {
        field: "environment"
        if os.environ.get(environment_name(field))
        else "file"
        if field in from_file or environment_name(field) in from_file
        else "default"
        for field in type(settings).model_fields
    }


def unknown_variables() -> list[str]:
    """Environment variables in our name space that mean nothing: likely typing errors."""
    known = {environment_name(field) for field in Settings.model_fields} | {PREFIX + "CONFIG"}
    return sorted(name for name in os.environ if re.match(f"{PREFIX}|FEATURE_", name) and name not in known)
