"""Settings: environment over file over default, and a plain line for what cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from quarterdeck.server.config import (
    Settings,
    SettingsError,
    environment_name,
    load_settings,
    sources,
    unknown_variables,
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(environment_name(field), raising=False)
    monkeypatch.delenv("QUARTERDECK_CONFIG", raising=False)


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deck.toml"
    monkeypatch.setenv("QUARTERDECK_CONFIG", str(path))
    return path


def test_environment_wins_over_file_and_file_over_default(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text("memory_default_ttl = 60\nagents_max_alive = 7\nfeature_adaptive_opt = false\n")
    monkeypatch.setenv("QUARTERDECK_MEMORY_DEFAULT_TTL", "30")
    monkeypatch.setenv("FEATURE_QUERY_CONTROL", "false")
    settings = load_settings()
    assert settings.memory_default_ttl == 30
    assert settings.agents_max_alive == 7
    assert (settings.feature_adaptive_opt, settings.feature_query_control) == (False, False)
    assert settings.feature_parallel_spawning is True
    origin = sources(settings)
    assert origin["memory_default_ttl"] == "environment"
    assert origin["agents_max_alive"] == origin["feature_adaptive_opt"] == "file"
    assert origin["log_level"] == "default"


def test_upload_roots_are_a_list_in_either_place(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text('upload_roots = ["/a", "/b"]\n')
    assert load_settings().upload_roots == [Path("/a"), Path("/b")]
    monkeypatch.setenv("QUARTERDECK_UPLOAD_ROOTS", "/c:~/d e")
    monkeypatch.setenv("HOME", "/home/h")
    assert load_settings().upload_roots == [Path("/c"), Path("/home/h/d e")]


def test_the_working_directory_is_the_root_unless_it_is_a_home_or_a_whole_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().upload_roots == [tmp_path]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings().upload_roots == []
    monkeypatch.chdir("/")
    assert load_settings().upload_roots == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agents_max_alive = 0\n", "deck.toml: agents_max_alive: Input should be greater than or equal to 1"),
        ("speed = 3\n", "deck.toml: there is no setting 'speed' (valid: data_dir, log_level"),
        (
            'telemetry_url = "http://collector:4318?key=sesame"',
            "deck.toml: telemetry_url: give http(s)://host:port",
        ),
        ('vectors_url = "https://qdrant:6333?key=sesame"', "deck.toml: vectors_url: give http(s)://host:port; an API"),
        ('embedder = "openai:m@https://host/v1?key=sesame"', "deck.toml: embedder: give lexical, semantic, semantic:"),
        ('upload_roots = ["~nobody-here/x"]', "deck.toml: upload_roots.0: there is no home folder ~nobody-here"),
        ("this is not TOML", "QUARTERDECK_CONFIG: cannot read"),
    ],
)
def test_a_bad_file_is_one_plain_line(toml: Path, text: str, message: str) -> None:
    toml.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert message in caught.value.message
    assert "sesame" not in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_file_is_named(toml: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*deck\.toml"):
        load_settings()


def test_a_misspelt_variable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTERDECK_DATADIR", "/x")
    monkeypatch.setenv("FEATURE_ADAPTIVE_OPT", "true")
    assert unknown_variables() == ["QUARTERDECK_DATADIR"]
