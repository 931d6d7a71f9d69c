"""`headgate model`, as typed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams.cli import app


def test_a_model_goes_into_the_store_and_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default store is a folder beside the settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.json").write_text("{}", "utf-8")
    headgate = CliRunner()

    def said(*words: str) -> str:
        done = headgate.invoke(app, ["model", *words])
        assert done.exit_code == 0, done.output
        return done.output

    version = said("push", "policy", "policy.json", "--from", "by hand").split()[1]
    listed = said("list", "policy")
    assert version in listed
    assert "by hand" in listed
    said("pull", "policy", version[:6], "--out", "again")
    assert (tmp_path / "again" / "policy.json").read_text("utf-8") == "{}"
    assert (tmp_path / "models" / "policy" / version / "manifest.json").is_file()
