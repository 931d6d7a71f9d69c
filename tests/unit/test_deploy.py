"""What is deployed says what the code understands. The files are read, not run: no container engine is needed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from streams.cli import app
from streams.run import STAGES
from streams.settings import PREFIX, KafkaSettings, Settings, load

ROOT = Path(__file__).parents[2]
COMPANY = ROOT / "examples" / "fernway"
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
CI = ROOT / ".ci" / "run"


def interpolated(text: str) -> str:
    """The compose file with its defaults, and a key where it insists on one."""
    return re.sub(r"\$\{\w+:(?:-([^}]*)|\?[^}]*)\}", lambda m: "a-key" if m[1] is None else m[1], text)


SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(COMPOSE))["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "headgate"}
COMMANDS = {name: service["command"] for name, service in OURS.items()}
STAGE_SERVICES = {name: service for name, service in OURS.items() if COMMANDS[name][:2] == ["headgate", "run"]}
SERVERS = [name for name, command in COMMANDS.items() if command[:2] == ["python", "-m"]]


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the service's container would read, with the example company mounted."""
    for name in [n for n in os.environ if n.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in OURS[service].get("environment", {}).items():
        monkeypatch.setenv(name, value.replace("/company", str(COMPANY)))
    return load()


def option(service: str, name: str) -> str:
    """The value of an option in the service's command."""
    command: list[str] = COMMANDS[service]
    return command[command.index(name) + 1]


def test_every_stage_has_a_service_of_its_name() -> None:
    """A stage that is missing here would leave its topic unread; the scoreboard runs like one."""
    assert {name: COMMANDS[name][2] for name in STAGE_SERVICES} == {name: name for name in (*STAGES, "scoreboard")}


@pytest.mark.parametrize("service", [name for name, command in COMMANDS.items() if command[0] == "headgate"])
def test_headgate_takes_the_command(service: str) -> None:
    """Every command and argument of a service is one that the command line has."""
    command = typer.main.get_command(app)
    arguments = COMMANDS[service][1:]
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(service, arguments)


@pytest.mark.parametrize("service", SERVERS)
def test_a_server_takes_the_options_it_is_given(service: str) -> None:
    """A misspelt option would end the container at every start."""
    command = [sys.executable, *COMMANDS[service][1:3], "--help"]
    known = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    given = {word for word in COMMANDS[service] if word.startswith("--")}
    assert given <= set(re.findall(r"--[\w-]+", known))


@pytest.mark.parametrize("service", [name for name, service in OURS.items() if "environment" in service])
def test_the_environment_is_settings(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and values are those of the settings; nothing else is set for our processes."""
    assert all(name.startswith(PREFIX) for name in OURS[service]["environment"])
    settings_of(service, monkeypatch)


@pytest.mark.parametrize("service", STAGE_SERVICES)
def test_a_stage_is_healthy_when_it_is_ready(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe asks /readyz on the port that the stage is told to serve."""
    port = settings_of(service, monkeypatch).health_port
    assert f"http://127.0.0.1:{port}/readyz" in OURS[service]["healthcheck"]["test"][-1]


@pytest.mark.parametrize("service", SERVERS)
def test_a_server_is_healthy_when_it_answers(service: str) -> None:
    """The probe asks /health on the port of the command, and others can reach that port."""
    assert f"http://127.0.0.1:{option(service, '--port')}/health" in OURS[service]["healthcheck"]["test"][-1]
    assert option(service, "--host") == "0.0.0.0"


@pytest.mark.parametrize("service", [*STAGE_SERVICES, "topics"])
def test_stages_find_kafka_under_an_address_that_it_advertises(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connects elsewhere is sent to an address it can't reach."""
    address = settings_of(service, monkeypatch).kafka.bootstrap_servers
    kafka = SERVICES["kafka"]["environment"]
    assert f"INSIDE://{address}" in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f":{address.split(':')[1]}" in kafka["KAFKA_LISTENERS"]


def test_the_console_is_where_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine only: it asks for no password."""
    port = settings_of("scoreboard", monkeypatch).scoreboard.port
    assert OURS["scoreboard"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_helpdesks_find_kafka_where_the_settings_look_by_default() -> None:
    """On the machine itself `headgate publish` needs no setting."""
    address = KafkaSettings().bootstrap_servers
    assert SERVICES["kafka"]["ports"] == [f"{address}:{address.split(':')[1]}"]
    assert f"OUTSIDE://{address}" in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")


def test_tier1_asks_the_server_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its service name and its port, under the OpenAI API's path."""
    base_url = settings_of("tier1", monkeypatch).tier1.base_url
    assert base_url == f"http://tier1-server:{option('tier1-server', '--port')}/v1"


def test_a_run_without_a_key_finds_the_recording() -> None:
    """The address in the file's own instructions is the recording's."""
    assert f"TIER2_BASE_URL=http://recorded-frontier:{option('recorded-frontier', '--port')} " in COMPOSE
    assert SERVICES["recorded-frontier"]["profiles"] == ["recorded"]


def test_the_key_is_asked_for_and_stands_nowhere() -> None:
    """Without a key compose refuses to start; the file holds none."""
    assert re.search(r"HEADGATE_TIER2__API_KEY: \$\{ANTHROPIC_API_KEY:\?[^}]+\}\n", COMPOSE)


def test_tier2_has_a_spend_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run by the file's own instructions can't cost more than that; the state is in Kafka, whose data is kept."""
    assert settings_of("tier2", monkeypatch).tier2.spend.month_usd is not None
    assert "kafka-data:/var/lib/kafka/data" in SERVICES["kafka"]["volumes"]


@pytest.mark.parametrize("service", OURS)
def test_the_companys_files_that_are_named_exist(service: str) -> None:
    """Everything under /company is in the example company's folder, which is mounted there read-only."""
    assert f"./{COMPANY.relative_to(ROOT)}:/company:ro" in OURS[service]["volumes"]
    words = [*COMMANDS[service], *OURS[service].get("environment", {}).values()]
    named = [COMPANY / word.removeprefix("/company").lstrip("/") for word in words if word.startswith("/company")]
    assert named
    assert [path for path in named if not path.exists()] == []


@pytest.mark.parametrize("service", OURS)
def test_our_containers_are_locked_down(service: str) -> None:
    """Not root, no capabilities, nothing to write to but what is mounted."""
    assert OURS[service]["read_only"] is True
    assert OURS[service]["cap_drop"] == ["ALL"]
    assert OURS[service]["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in OURS[service]
    assert int(re.findall(r"^USER (\d+):", DOCKERFILE, re.M)[-1]) > 0


@pytest.mark.parametrize("service", STAGE_SERVICES)
def test_a_stage_has_time_to_drain(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed only after its drain time, and started again whatever ended it."""
    drain_s = settings_of(service, monkeypatch).kafka.drain_s
    assert float(OURS[service]["stop_grace_period"].removesuffix("s")) > drain_s
    assert OURS[service]["restart"] == "unless-stopped"


def test_kafka_is_the_version_that_the_tests_run_on() -> None:
    """The embedded broker's."""
    version = re.search(
        r"^org\.apache\.kafka:kafka_2\.13:(\S+) ", (ROOT / "streams/local/kafka_jars.lock").read_text(), re.M
    )
    assert version
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_the_image_gets_what_it_copies() -> None:
    """Every path that the Dockerfile copies exists and is let through by .dockerignore."""
    copied = [path for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M) for path in line.split()]
    let_through = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M)
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert {path.split("/")[0] for path in copied} == set(let_through)


def test_the_image_holds_every_package() -> None:
    """A package that is added to the project is copied, too."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["build-backend"]["module-name"]
    assert [name for name in packages if f"COPY {name} {name}\n" not in DOCKERFILE] == []


@pytest.mark.parametrize("name", ["uv", "run"])
def test_the_image_takes_hash_locked_packages_from_no_named_host(name: str) -> None:
    """Every requirement is pinned and hashed, and the lists name no host."""
    locked = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    assert f"requirements/{name}.txt" in DOCKERFILE
    assert "://" not in locked
    requirements = re.sub(r"\\\n", "", locked).splitlines()
    assert [
        line for line in requirements if not re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+ .*--hash=sha256:\w+", line)
    ] == []


def test_the_image_stays_light() -> None:
    """No training and no GPU libraries."""
    names = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements/run.txt").read_text(), re.M))
    assert not {"torch", "transformers", "vllm", "onnxruntime-gpu"} & names


def test_both_stages_of_the_image_are_the_same_python() -> None:
    """An environment works only with the interpreter that it was made with; it is one that the project supports."""
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert len(images) == 2
    assert len(set(images)) == 1
    version = tuple(map(int, re.findall(r"python:(\d+)\.(\d+)-", images[0])[0]))
    assert version >= (3, 11)


def test_compose_accepts_the_file() -> None:
    """Where Docker's compose plugin is installed: it needs no engine for that."""
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("Docker's compose plugin is not installed here")
    command = [docker, "compose", "--profile", "recorded", "config", "--quiet"]
    environment = {**os.environ, "ANTHROPIC_API_KEY": "a-key"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ci_is_a_script_that_ends_with_the_tests() -> None:
    """Executable, correct bash, and only `make` commands that there are; pytest's summary comes last."""
    assert os.access(CI, os.X_OK)
    subprocess.run(["bash", "-n", CI], check=True)
    script = CI.read_text("utf-8")
    targets = re.findall(r"^make (\w+)", script, re.M)
    assert targets == ["demo", "test"]
    assert script.endswith("make test\n")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)] == []
