"""What the tests of deploy/ and docker-compose.yml share: does our code take what a container is given."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer

from streams.cli import app
from streams.settings import PREFIX, Settings, load

ROOT = Path(__file__).parents[1]
COMPANY = ROOT / "examples" / "fernway"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
OF_THE_IMAGE = dict(re.findall(rf"\b({PREFIX}\w+)=(\S+)", DOCKERFILE))
"""Settings that an image brings; both bring the same."""


def settings_in(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that a container with these variables would read, with the example company as its /company."""
    for name in [n for n in os.environ if n.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in {**OF_THE_IMAGE, **environment}.items():
        monkeypatch.setenv(name, value.replace("/company", str(COMPANY)))
    return load()


def is_known(name: str) -> bool:
    """A setting's variable, as far as its start goes: the settings refuse those they don't know. Or OpenTelemetry's."""
    return name.startswith((PREFIX, "OTEL_EXPORTER_OTLP_"))


def taken_by_headgate(arguments: list[str]) -> None:
    """Raises: click's error if the command line has no such command, argument or option."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context("headgate", arguments)


def unknown_options(command: list[str]) -> set[str]:
    """Options that `python -m MODULE ...` is given and doesn't have."""
    asked = [sys.executable, *command[1:3], "--help"]
    known = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {word for word in command if word.startswith("--")} - set(re.findall(r"--[\w-]+", known))


def missing_company_files(words: list[str]) -> list[str]:
    """Those under /company that the example company's folder has not."""
    named = [word for word in words if word.startswith("/company")]
    assert named
    return [word for word in named if not (COMPANY / word.removeprefix("/company").lstrip("/")).exists()]
