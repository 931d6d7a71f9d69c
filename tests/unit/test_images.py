"""deploy/Dockerfile copies what there is and holds what it should. Images are not built here: that needs an engine."""

import re
import tomllib

import pytest

from tests.deployed import DOCKERFILE, OF_THE_IMAGE, ROOT

STAGES = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.M)[1:]
BASES = [stage.split()[1] for stage in STAGES]
TARGETS = {stage.split()[3]: stage for stage in STAGES}
"""Each stage's text by its name, in the file's order."""

VLLM_BRINGS = {
    "httpx",
    "msgspec",
    "numpy",
    "prometheus-client",
    "pydantic-settings",
    "rich",
    "tokenizers",
    "typer",
}
"""Direct dependencies of ours that vllm 0.32.0 depends on, too: as its resolution for Python 3.12 has them."""


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


def test_the_images_pythons_fit() -> None:
    """An environment works only with the interpreter that it was made with; it is one that the project supports."""
    slim = {image for image in BASES if image.startswith("python:")}
    assert len(slim) == 1
    version = tuple(map(int, re.findall(r"python:(\d+)\.(\d+)-", slim.pop())[0]))
    assert version >= (3, 11)


def test_every_image_that_runs_is_pinned() -> None:
    """By a version that says which; a stage built on another stage has that one's."""
    foreign = [image for image in BASES if image not in TARGETS]
    assert [image for image in foreign if not re.search(r":v?\d+\.\d+", image)] == []


@pytest.mark.parametrize("target", ["headgate", "vllm"])
def test_an_image_runs_as_a_user_with_a_number(target: str) -> None:
    """A cluster can check of a number that it isn't root, and of a name it can't."""
    users = re.findall(r"^USER (\S+)", TARGETS[target], re.M)
    assert users
    assert int(users[-1].split(":")[0]) > 0


@pytest.mark.parametrize("target", ["headgate", "vllm"])
def test_an_image_is_healthy_when_its_stage_is_ready(target: str) -> None:
    """Its health check asks /readyz on the port that its environment tells the stage to serve."""
    (port,) = re.findall(r"HEADGATE_HEALTH_PORT=(\d+)", TARGETS[target])
    assert port == OF_THE_IMAGE["HEADGATE_HEALTH_PORT"]
    assert f"http://127.0.0.1:{port}/readyz" in re.findall(r"^HEALTHCHECK .*\n.*", TARGETS[target], re.M)[0]


def test_the_last_target_is_the_one_for_stages() -> None:
    """It is what compose and a plain `docker build` make."""
    assert list(TARGETS)[-1] == "headgate"


def test_build_tools_stay_behind() -> None:
    """What is built is copied; nothing is installed by pip or uv in an image that runs."""
    assert [name for name in ("headgate", "vllm") if re.search(r"\b(pip|uv) ", TARGETS[name])] == []


def test_vllms_image_gets_what_it_lacks() -> None:
    """Every direct dependency of ours is added or one of vLLM's own, and what is added is locked."""
    added = set(re.search(r"--constraint requirements/run.txt \\\n\s+(.*?) \\\n", DOCKERFILE).group(1).split())
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements/run.txt").read_text(), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[\[>=<]", line)[0] for line in project["dependencies"]}
    assert added <= locked
    assert direct - added == VLLM_BRINGS


@pytest.mark.parametrize("name", ["headgate", "headgate-vllm"])
def test_a_companys_image_is_made_from_one_of_ours(name: str) -> None:
    """By the names that the files' own instructions give them."""
    company = (ROOT / "deploy" / "company.Dockerfile").read_text("utf-8")
    assert re.search(rf"^#   docker build .* -t {name} ", DOCKERFILE, re.M)
    assert re.search(rf"BASE={name}\b", company)
    assert "COPY . /company\n" in company
