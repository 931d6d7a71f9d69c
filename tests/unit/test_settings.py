"""Settings: the file, then the environment; what is wrong is named, and secrets are never shown."""

import os
from pathlib import Path

import pytest

from streams import settings
from streams.settings import Settings, SettingsError

SECRET = "sk-canary-123"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and an environment without settings."""
    for name in [name for name in os.environ if name.startswith("HEADGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "headgate.toml"
    path.write_text(text)
    return path


def test_without_file_and_variables_the_defaults_hold() -> None:
    """A stage starts with nothing configured."""
    loaded = settings.load()
    assert loaded.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert loaded.tier2.api_key is None


def test_the_environment_wins_over_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key: what a variable doesn't name stays as the file has it."""
    written(folder, '[kafka]\nbootstrap_servers = "file:1"\ntopic_prefix = "p-"\n')
    monkeypatch.setenv("HEADGATE_KAFKA__BOOTSTRAP_SERVERS", "env:2")
    loaded = settings.load()
    assert (loaded.kafka.bootstrap_servers, loaded.kafka.topic_prefix) == ("env:2", "p-")


def test_a_file_named_by_the_environment_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEADGATE_CONFIG names it, wherever it stands; its paths are relative to its own folder."""
    (folder / "elsewhere").mkdir()
    path = folder / "elsewhere" / "some.toml"
    targets = '[[tier2.targets]]\nprovider = "openai"\nbase_url = "x"\nmodel = "y"\napi_key_file = "key"\n'
    path.write_text(
        f'policy = "sub/policy.json"\n[tier2]\nprices = "prices.toml"\n{targets}[router]\nmodel = "/abs/m"\n'
    )
    monkeypatch.setenv("HEADGATE_CONFIG", str(path))
    loaded = settings.load()
    assert loaded.policy == folder / "elsewhere" / "sub" / "policy.json"
    assert loaded.tier2.prices == folder / "elsewhere" / "prices.toml"
    assert loaded.tier2.targets[0].api_key_file == folder / "elsewhere" / "key"
    assert loaded.router.model == Path("/abs/m")
    assert loaded.checker.scorer == folder / "elsewhere" / "checker" / "scorer.onnx"


def test_a_named_file_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on with the defaults would run something else than was asked for."""
    monkeypatch.setenv("HEADGATE_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match=r"HEADGATE_CONFIG.*nowhere\.toml"):
        settings.load()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("polcy = 1\n", "polcy"),
        ("[kafka]\nbootstrap = 1\n", r"kafka\.bootstrap"),
        ("[kafk]\npartitions = 1\n", "kafk"),
        ("[kafka]\npartitions = 0\n", r"kafka\.partitions"),
        ('[tier2]\nprovider = "acme"\n', r"tier2\.provider"),
        ("[tier2.spend.each_tenant]\nday = 1\n", r"tier2\.spend\.each_tenant\.day"),
        ('[[tier2.targets]]\nprovider = "openai"\n', r"tier2\.targets\.0\.base_url"),
        ('[tier2]\nwhen_spent = ["wait"]\n', r"tier2\.when_spent"),
        ("kafka = 1\n", "kafka"),
        ("kafka = \n", r"headgate\.toml"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(folder: Path, text: str, named: str) -> None:
    """A misspelt or wrong setting stops the process instead of being passed over."""
    written(folder, text)
    with pytest.raises(SettingsError, match=named):
        settings.load()


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("HEADGATE_POLCY", "x", "HEADGATE_POLCY"),
        ("HEADGATE_KAFKA__BOOTSTRAP", "x", "HEADGATE_KAFKA__BOOTSTRAP"),
        ("HEADGATE_KAFKA_PARTITIONS", "4", "HEADGATE_KAFKA_PARTITIONS"),
        ("HEADGATE_KAFKA__PARTITIONS", "many", r"kafka\.partitions"),
        ("HEADGATE_LOG_LEVEL", "loud", "log_level"),
        ("HEADGATE_HEALTH_PORT", "70000", "health_port"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    """The same holds for variables, which the library would pass over in silence."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        settings.load()


def test_secrets_are_never_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by repr and str, nor by an error about the very setting or about another one."""
    monkeypatch.setenv("HEADGATE_TIER2__API_KEY", SECRET)
    loaded = settings.load()
    assert loaded.tier2.api_key is not None
    assert loaded.tier2.api_key.get_secret_value() == SECRET
    assert SECRET not in f"{loaded!r} {loaded} {loaded.tier2!r} {loaded.model_dump_json()}"
    monkeypatch.setenv("HEADGATE_TIER2__MAX_TOKENS", "0")
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert SECRET not in str(caught.value)
    monkeypatch.delenv("HEADGATE_TIER2__API_KEY")
    written(folder, f'[tier2]\napi_key = ["{SECRET}"]\n')
    with pytest.raises(SettingsError, match=r"tier2\.api_key") as caught:
        settings.load()
    assert SECRET not in str(caught.value)


def test_settings_do_not_change() -> None:
    """They are one value for the life of the process."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().log_level = "debug"  # type: ignore[misc]
