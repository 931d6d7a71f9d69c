"""deploy/kubernetes says what the code understands, and its manifests fit together. No cluster is needed."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from schemas.topics import all_names
from streams.run import STAGES
from streams.runtime import metrics
from streams.runtime.lanes import Lane
from streams.settings import Settings
from streams.strimzi import kafka_topics
from tests import kustomize
from tests.deployed import (
    COMPANY,
    ROOT,
    is_known,
    missing_company_files,
    settings_in,
    taken_by_headgate,
    unknown_options,
)
from tests.kustomize import Manifest, documents

FOLDER = ROOT / "deploy" / "kubernetes"
BASE = FOLDER / "base"
COMPONENT = FOLDER / "components" / "tier2-batch"
OVERLAYS = ("cpu", "gpu", "cpu with tier2-batch", "gpu with tier2-batch")


def folder_of(overlay: str, copy: Path) -> Path:
    """The overlay's folder in a copy of deploy/kubernetes that is made there; with the component if it is named."""
    name, _, component = overlay.partition(" with ")
    shutil.copytree(FOLDER, copy, dirs_exist_ok=True)
    if component:
        file = copy / "overlays" / name / "kustomization.yaml"
        off = f"\n# components: [../../components/{component}]\n"
        assert off in file.read_text()
        file.write_text(file.read_text().replace(off, off.replace("# ", "")))
    return copy / "overlays" / name


def built(overlay: str) -> list[Manifest]:
    """What the overlay makes."""
    with TemporaryDirectory() as copy:
        return kustomize.build(folder_of(overlay, Path(copy)))


BUILT = {overlay: built(overlay) for overlay in OVERLAYS}
OPERATORS = {"ScaledObject", "PodMonitor"}
"""Kinds that KEDA and the Prometheus operator bring: no schema is in Kubernetes' own."""
NAME, PART_OF = "app.kubernetes.io/name", "app.kubernetes.io/part-of"


def of_kind(overlay: str, *kinds: str) -> dict[str, Manifest]:
    """The overlay's manifests of these kinds, by name."""
    return {m["metadata"]["name"]: m for m in BUILT[overlay] if m["kind"] in kinds}


WORKLOADS = {overlay: of_kind(overlay, "Deployment", "StatefulSet") for overlay in OVERLAYS}
EACH_WORKLOAD = [(overlay, name) for overlay in OVERLAYS for name in WORKLOADS[overlay]]
SCALED = [(overlay, name) for overlay in OVERLAYS for name in of_kind(overlay, "ScaledObject")]


def pod(overlay: str, name: str) -> Manifest:
    """A workload's pod spec."""
    spec: Manifest = WORKLOADS[overlay][name]["spec"]["template"]["spec"]
    return spec


def main(overlay: str, name: str) -> Manifest:
    """The container that is ours."""
    container: Manifest
    (container,) = pod(overlay, name)["containers"]
    assert container["name"] == "headgate"
    return container


def environment(overlay: str, name: str) -> dict[str, str]:
    """The container's variables; what comes from elsewhere has a stand-in, what is optional is left out."""
    found = {}
    for variable in main(overlay, name)["env"]:
        source: dict[str, Any] = variable.get("valueFrom", {})
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        elif not next(iter(source.values())).get("optional"):
            assert source.keys() == {"fieldRef"}
            found[variable["name"]] = f"{name}-0"
    return found


def settings_of(overlay: str, name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Settings:
    """The settings that the container would read, with the example company as its /company."""
    variables = environment(overlay, name)
    file = folder / Path(variables["HEADGATE_CONFIG"]).name
    text = of_kind(overlay, "ConfigMap")["headgate"]["data"][file.name]
    file.write_text(text.replace("/company", str(COMPANY)))
    return settings_in({**variables, "HEADGATE_CONFIG": str(file)}, monkeypatch)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_stage_has_a_workload_of_its_name(overlay: str) -> None:
    """And what stands beside the stages, too."""
    assert WORKLOADS[overlay].keys() == {*STAGES, "certify", "scoreboard", "tier2-batch"}
    commands = {name: main(overlay, name)["command"][-1] for name in WORKLOADS[overlay]}
    assert commands == {name: name for name in WORKLOADS[overlay]}


def test_every_file_is_used() -> None:
    """Nothing but the example of a secret, which is nobody's, lies there in vain."""
    (base,) = documents(BASE / "kustomization.yaml")
    (generator,) = base["configMapGenerator"]
    used = {*base["resources"], *generator["files"], *(patch["path"] for patch in base["patches"])}
    assert {path.name for path in BASE.iterdir()} - used == {"kustomization.yaml", "secrets.example.yaml"}
    (component,) = documents(COMPONENT / "kustomization.yaml")
    used = {patch["path"] for patch in component["patches"]}
    assert {path.name for path in COMPONENT.iterdir()} - used == {"kustomization.yaml"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_files_are_built_here_as_kustomize_does(overlay: str, tmp_path: Path) -> None:
    """Where kubectl is installed: it needs no cluster for that. The other tests read what is built here."""
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("kubectl is not installed here")
    command = [kubectl, "kustomize", str(folder_of(overlay, tmp_path))]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # The name of the generated ConfigMap has a hash there.
    text = re.sub(r"\bheadgate-[0-9a-z]{10}$", "headgate", text, flags=re.M)
    assert canonical(yaml.safe_load_all(text)) == canonical(BUILT[overlay])


def canonical(manifests: Any) -> list[str]:
    """Manifests as text, whatever the order of their lists and keys."""

    def ordered(value: Any) -> Any:
        match value:
            case dict():
                return {key: ordered(each) for key, each in value.items()}
            case list():
                return sorted((ordered(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True))
            case _:
                return value

    return sorted(json.dumps(ordered(manifest), sort_keys=True) for manifest in manifests)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_own_schemas_accept_the_manifests(overlay: str) -> None:
    """Strictly: an unknown field is a mistake. Of the oldest version that is still looked after."""
    validator = pytest.importorskip("kubernetes_validate")
    for manifest in BUILT[overlay]:
        if manifest["kind"] not in OPERATORS:
            validator.validate(manifest, "1.33", strict=True)


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_headgate_takes_the_command(overlay: str, name: str) -> None:
    """Every command and argument is one that the command line has, under the name that the image has for it."""
    command = main(overlay, name)["command"]
    start = ["python3", "-m", "streams.cli"] if "vllm" in main(overlay, name)["image"] else ["headgate"]
    assert command[: len(start)] == start
    taken_by_headgate(command[len(start) :])


def test_the_model_server_takes_its_options() -> None:
    """It answers where the stage looks by default, to nobody but the stage."""
    (server,) = pod("cpu", "tier1")["initContainers"]
    assert unknown_options(server["command"]) == set()
    assert f"127.0.0.1:{server['command'][server['command'].index('--port') + 1]}" in Settings().tier1.base_url
    assert "--host" not in server["command"]
    assert missing_company_files(server["command"]) == []


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_the_environment_is_settings(overlay: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names and values are those of the settings, or OpenTelemetry's; no other variables get in."""
    assert [v["name"] for v in main(overlay, name)["env"] if not is_known(v["name"])] == []
    assert pod(overlay, name)["enableServiceLinks"] is False
    settings_of(overlay, name, monkeypatch, tmp_path)


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_the_companys_files_that_are_named_exist(overlay: str, name: str) -> None:
    """In the example company's folder; a model for the GPU it has none."""
    words = re.findall(r'"(/company[^"]*)"', (BASE / "headgate.toml").read_text())
    words += [value for key, value in environment(overlay, name).items() if key != "HEADGATE_TIER1__MODEL_FOLDER"]
    assert missing_company_files(words) == []


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_what_a_container_is_told_is_mounted(overlay: str, name: str) -> None:
    """The configuration file is where HEADGATE_CONFIG says, and every mount has its volume."""
    mounts = {mount["mountPath"]: mount["name"] for mount in main(overlay, name)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(overlay, name)["volumes"]}
    file = Path(environment(overlay, name)["HEADGATE_CONFIG"])
    assert set(mounts.values()) == volumes.keys()
    assert volumes[mounts[str(file.parent)]]["configMap"]["name"] in of_kind(overlay, "ConfigMap")


@pytest.fixture(scope="module")
def health_pages() -> Iterator[str]:
    """The address of the pages of a process that is alive and ready."""
    server = metrics.serve(0, metrics.Health(alive=lambda: True, ready=lambda: True))
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_probes_ask_pages_that_are_served(
    overlay: str, name: str, health_pages: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the port of the settings, and a path that is a health page: any other is answered with the metrics."""
    container = main(overlay, name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": settings_of(overlay, name, monkeypatch, tmp_path).health_port}
    asked = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {get["port"] for get in asked.values()} == {"metrics"}
    for get in asked.values():
        with urlopen(health_pages + get["path"]) as answer:
            assert answer.read() == b"ok\n"
    assert asked["readinessProbe"]["path"] == "/readyz"
    assert asked["livenessProbe"]["path"] == "/healthz"


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_containers_are_locked_down(overlay: str, name: str) -> None:
    """Not root, no privileges, nothing to write to but what is mounted, no token, and not all of a node."""
    spec = pod(overlay, name)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() >= container["resources"]["requests"].keys() == {"cpu", "memory"}


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_a_process_has_time_to_drain(overlay: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is killed only after its drain time; a static member is expected back for longer than that."""
    kafka = settings_of(overlay, name, monkeypatch, tmp_path).kafka
    grace_s = pod(overlay, name)["terminationGracePeriodSeconds"]
    assert grace_s > kafka.drain_s
    if name == "router":
        assert kafka.session_timeout_s > grace_s


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_static_members_have_names_that_last(overlay: str, name: str) -> None:
    """Those of a StatefulSet. A Deployment's pods never come back under theirs, and would hold partitions in vain."""
    is_static = "HEADGATE_KAFKA__GROUP_INSTANCE_ID" in environment(overlay, name)
    assert is_static is (WORKLOADS[overlay][name]["kind"] == "StatefulSet")


@pytest.mark.parametrize(("overlay", "name"), EACH_WORKLOAD)
def test_a_workload_finds_its_own_pods(overlay: str, name: str) -> None:
    """By a label that no other workload's pods have."""
    spec = WORKLOADS[overlay][name]["spec"]
    assert spec["selector"] == {"matchLabels": {NAME: name}}
    assert spec["template"]["metadata"]["labels"] == WORKLOADS[overlay][name]["metadata"]["labels"]
    assert selected(overlay, spec["selector"]) == {name}
    for spread in pod(overlay, name)["topologySpreadConstraints"]:
        assert name in selected(overlay, spread["labelSelector"])
        assert spread["matchLabelKeys"] == [NAME]


def selected(overlay: str, selector: Manifest) -> set[str]:
    """The workloads whose pods a selector finds."""
    wanted = selector.get("matchLabels", {})
    among = {e["key"]: e["values"] for e in selector.get("matchExpressions", ())}
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in WORKLOADS[overlay].items()}
    return {
        name
        for name, has in labels.items()
        if all(has.get(key) == value for key, value in wanted.items())
        and all(has.get(key) in values for key, values in among.items())
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whatever_selects_pods_selects_those_that_it_is_for(overlay: str) -> None:
    """A selector with a misspelt label is accepted, and has no effect."""
    budgets = of_kind(overlay, "PodDisruptionBudget")
    assert {name: selected(overlay, b["spec"]["selector"]) for name, b in budgets.items()} == {n: {n} for n in STAGES}
    (monitor,) = of_kind(overlay, "PodMonitor").values()
    assert selected(overlay, monitor["spec"]["selector"]) == set(WORKLOADS[overlay])
    policies = of_kind(overlay, "NetworkPolicy")
    everybody = set(WORKLOADS[overlay])
    assert {name: selected(overlay, p["spec"]["podSelector"]) for name, p in policies.items()} == {
        "default-deny": everybody,
        "names-and-kafka": everybody,
        "monitoring": everybody,
        "providers": {n for n in everybody if key_files(overlay, n)},
    }


def key_files(overlay: str, name: str) -> list[str]:
    """The files that the container reads providers' keys from."""
    return [value for key, value in environment(overlay, name).items() if key.endswith("__API_KEY_FILE")]


def ports_of(rules: list[Manifest]) -> Iterator[str | int]:
    """All ports that network policies' rules open."""
    return (port["port"] for rule in rules for port in rule["ports"])


def test_the_network_opens_the_ports_that_are_used() -> None:
    """Kafka's as the settings have it, the health pages', the collector's; and everything else is denied first."""
    policies = of_kind("cpu", "NetworkPolicy")
    settings = tomllib.loads((BASE / "headgate.toml").read_text())
    collector = yaml.safe_load((ROOT / "deploy/otel/collector.yaml").read_text())
    protocols = collector["receivers"]["otlp"]["protocols"].values()
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    kafka = int(settings["kafka"]["bootstrap_servers"].split(":")[1])
    assert set(ports_of(policies["names-and-kafka"]["spec"]["egress"])) == {53, kafka}
    assert set(ports_of(policies["monitoring"]["spec"]["ingress"])) == {main("cpu", "router")["ports"][0]["name"]}
    assert set(ports_of(policies["monitoring"]["spec"]["egress"])) == {
        int(protocol["endpoint"].split(":")[1]) for protocol in protocols
    }


@pytest.mark.parametrize(("overlay", "name"), SCALED)
def test_a_stage_is_scaled_by_its_true_backlog(overlay: str, name: str) -> None:
    """By a metric that it has, without the slow lane, up to as many processes as there are partitions."""
    scaled = of_kind(overlay, "ScaledObject")[name]["spec"]
    target = WORKLOADS[overlay][name]
    assert scaled["scaleTargetRef"] == {"kind": target["kind"], "name": name}
    assert "replicas" not in target["spec"]
    assert scaled["maxReplicaCount"] == tomllib.loads((BASE / "headgate.toml").read_text())["kafka"]["partitions"]
    assert scaled["minReplicaCount"] >= 1
    (trigger,) = scaled["triggers"]
    found = re.fullmatch(r'sum\((\w+)\{stage="(\w+)", lane!="(\w+)"\}\)', trigger["metadata"]["query"])
    assert found
    assert found[1] == metrics.UNFINISHED.describe()[0].name
    assert found[2] == name
    assert Lane(found[3]) is Lane.BACKFILL


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_stage_is_scaled_and_what_there_is_one_of_is_not(overlay: str) -> None:
    """A second certify, scoreboard or tier2-batch would get in the way of the first."""
    assert of_kind(overlay, "ScaledObject").keys() == set(STAGES)
    alone = {name: each["spec"].get("replicas") for name, each in WORKLOADS[overlay].items() if name not in STAGES}
    assert alone == {"certify": 1, "scoreboard": 1, "tier2-batch": int("tier2-batch" in overlay)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_slow_lane_is_answered_by_one_of_two(overlay: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By tier2, or by tier2-batch where it runs; which never starts with another setting, and is never two."""
    by = settings_of(overlay, "tier2", monkeypatch, tmp_path).tier2.backfill
    batches = WORKLOADS[overlay]["tier2-batch"]["spec"]
    assert by == ("batch" if batches["replicas"] else "calls")
    assert settings_of(overlay, "tier2-batch", monkeypatch, tmp_path).tier2.backfill == "batch"
    assert batches["strategy"] == {"type": "Recreate"}


def test_keys_are_named_and_stand_nowhere() -> None:
    """What is read from the secret is in the example of it, which has no values and isn't applied."""
    (example,) = documents(BASE / "secrets.example.yaml")
    keys = {}
    for name in WORKLOADS["cpu"]:
        for volume in pod("cpu", name)["volumes"]:
            if secret := volume.get("secret"):
                (item,) = secret["items"]
                mounts = {mount["name"]: mount["mountPath"] for mount in main("cpu", name)["volumeMounts"]}
                (file,) = key_files("cpu", name)
                assert file == f"{mounts[volume['name']]}/{item['path']}"
                assert secret["secretName"] == example["metadata"]["name"]
                keys[item["key"]] = ""
    assert keys == example["stringData"]
    assert not of_kind("cpu", "Secret")


def test_tier2_has_a_spend_limit() -> None:
    """What is applied as it stands can't cost more than that."""
    assert tomllib.loads((BASE / "headgate.toml").read_text())["tier2"]["spend"]["month_usd"] > 0


def test_the_topics_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write them anew with `headgate topics strimzi`, as docs/operations.md says, when this fails."""
    kafka = settings_in({"HEADGATE_CONFIG": str(BASE / "headgate.toml")}, monkeypatch).kafka
    text = (FOLDER / "topics" / "topics.yaml").read_text("utf-8")
    assert text.split("\n", 1)[1] == "---\n".join(kafka_topics(kafka, "headgate"))
    topics = kustomize.build(FOLDER / "topics")
    assert [topic["spec"]["topicName"] for topic in topics] == list(all_names())
    assert {topic["kind"] for topic in topics} == {"KafkaTopic"}
    names = [topic["metadata"]["name"] for topic in topics]
    assert [name for name in names if not re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name)] == []


def test_the_network_and_the_topics_mean_the_same_cluster() -> None:
    """Strimzi's label, its namespace and its bootstrap service's name are made of the Kafka resource's."""
    topics = kustomize.build(FOLDER / "topics")
    clusters = {topic["metadata"]["labels"]["strimzi.io/cluster"] for topic in topics}
    namespaces = {topic["metadata"]["namespace"] for topic in topics}
    (cluster,), (namespace,) = clusters, namespaces
    servers = tomllib.loads((BASE / "headgate.toml").read_text())["kafka"]["bootstrap_servers"]
    assert servers.startswith(f"{cluster}-kafka-bootstrap.{namespace}:")
    _, kafka = of_kind("cpu", "NetworkPolicy")["names-and-kafka"]["spec"]["egress"]
    (peer,) = kafka["to"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    assert peer["podSelector"]["matchLabels"]["strimzi.io/cluster"] == cluster


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_those_that_are_built_here(overlay: str) -> None:
    """A company's, by the names that its Dockerfile's own instructions give them, of the project's version."""
    built = re.findall(r"^#   docker build .* -t (\S+)", (ROOT / "deploy" / "company.Dockerfile").read_text(), re.M)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in WORKLOADS[overlay]:
        for container in (*pod(overlay, name)["containers"], *pod(overlay, name).get("initContainers", ())):
            image, tag = container["image"].removeprefix("registry.example/").split(":")
            assert image in built
            assert tag == version
