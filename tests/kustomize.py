"""As much of `kustomize build` as deploy/kubernetes uses, so that tests read what a cluster gets without it.

A test compares the results where kubectl is installed.
"""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

KEYS = {"volumeMounts": "mountPath"}
"""What tells the items of a list apart that a patch changes; `name` in all others whose items have one."""


def documents(path: Path) -> list[Manifest]:
    """The manifests in a file."""
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


def build(folder: Path) -> list[Manifest]:
    """What the folder's kustomization makes. Raises: FileNotFoundError for a file that it names and that is not there.

    A generated ConfigMap has no hash in its name.
    """
    made: list[Manifest] = []
    _build(folder, made)
    return made


def _build(folder: Path, made: list[Manifest]) -> None:
    """Do what the folder's kustomization says to what is made already: for a component that is all of its parent's."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    for name in kustomization.get("resources", ()):
        made += build(folder / name) if (folder / name).is_dir() else deepcopy(documents(folder / name))
    for name in kustomization.get("components", ()):
        _build(folder / name, made)
    for generator in kustomization.get("configMapGenerator", ()):
        data = {name: (folder / name).read_text("utf-8") for name in generator["files"]}
        made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
    for patch in kustomization.get("patches", ()):
        for change in documents(folder / patch["path"]):
            of = patch.get("target") or {"kind": change["kind"], "name": change["metadata"]["name"]}
            found = [manifest for manifest in made if _is_target(manifest, of)]
            assert found, f"{folder / patch['path']} changes nothing"
            for manifest in found:
                # A custom resource's lists have no known keys, and are replaced.
                by_key = "." not in manifest["apiVersion"].split("/")[0]
                _merge(manifest["spec"], change["spec"], by_key)
    if "namespace" in kustomization:
        for manifest in made:
            key = "name" if manifest["kind"] == "Namespace" else "namespace"
            manifest["metadata"][key] = kustomization["namespace"]


def _is_target(manifest: Manifest, of: dict[str, str]) -> bool:
    return (
        re.fullmatch(of["kind"], manifest["kind"]) is not None
        and re.fullmatch(of.get("name", ".*"), manifest["metadata"]["name"]) is not None
    )


def _merge(into: dict[str, Any], change: dict[str, Any], by_key: bool) -> None:
    """A strategic merge patch."""
    for name, value in change.items():
        old = into.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value, by_key)
        elif by_key and isinstance(value, list) and isinstance(old, list) and KEYS.get(name, "name") in value[0]:
            _merge_list(old, value, KEYS.get(name, "name"))
        else:
            into[name] = deepcopy(value)


def _merge_list(into: list[dict[str, Any]], change: list[dict[str, Any]], key: str) -> None:
    for item in change:
        old = next((each for each in into if each[key] == item[key]), None)
        if old is None:
            into.append(deepcopy(item))
        else:
            _merge(old, item, True)
