"""`headgate learn checker|thresholds|tier1 --data`: models and thresholds from the data sets of `headgate dataset`."""

import os
from pathlib import Path

import msgspec
from msgspec.structs import replace

from streams.learn import learning
from streams.runtime.clock import utc_now
from streams.settings import Settings
from workers.learning.provenance import HELD_OUT, POLICY


def train_checker(data: Path, out: Path) -> str:
    """Fit the scorer on a `checker` data set's rows; writes scorer.onnx to a folder, and says in a line how good it is.

    Raises: LearnError.
    """
    with learning():
        import numpy as np

        from workers.checker.scorer import Scorer
        from workers.learning.datasets import read_drafts
        from workers.learning.routing_metrics import auroc
        from workers.learning.scorer import cross_fitted, fit

        drafts = read_drafts(data)
        graph = fit(drafts)
        found = auroc(cross_fitted(drafts), np.array([draft.acceptable for draft in drafts]))
        out.mkdir(parents=True, exist_ok=True)
        (out / "scorer.onnx").write_bytes(graph)
    return f"scorer {Scorer(graph).version} on {len(drafts)} drafts: AUROC {found:.3f} (cross-fitted)"


def solve_thresholds(data: Path, out: Path, settings: Settings) -> str:
    """Solve the thresholds on a `thresholds` data set's rows; writes a policy file, and says in a line what is in it.

    The goal is that of `headgate certify`. All else is as in the policy that was in force when the set was made.

    Raises: LearnError.
    """
    with learning():
        from streams.certify import goal_of
        from streams.policies import load_policy
        from workers.learning.datasets import read_rows
        from workers.learning.review import version_of
        from workers.learning.thresholds import solve

        (rows, made), now = read_rows(data), utc_now()
        solved, before = solve(rows, goal_of(settings.certify), now), load_policy(data.with_name(POLICY))
        policy = replace(
            before,
            default=solved.unseen,
            # Labels from before an alarm count no more after this than they did.
            categories={n: replace(each, since=before.of(n).since) for n, each in solved.categories.items()},
            router_model=made.router,
            tier1_model=made.tier1,
            made_at=now,
            because=(f"solved on {len(rows)} labels of a data set",),
            evidence=None,
        )
        policy = replace(policy, version=version_of(policy))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(msgspec.json.format(msgspec.json.encode(policy), indent=1) + b"\n")
    certified = sum(each.certificate is not None for each in policy.categories.values())
    return (
        f"policy {policy.version} on {len(rows)} labels: {certified} of {len(policy.categories)} categories certified"
    )


def train_tier1(data: Path, out: Path, base: Path | None, work: Path) -> str:
    """Train a LoRA adapter on a `tier1` data set's chats; says in a line how good it is. Blocks for minutes.

    `base` is a Hugging Face folder; None for the example company's model, which is made in `work`. If held_out.jsonl
    stands beside the data, base and adapter are measured on it. `out` becomes a peft folder; with adapter.gguf, where
    llama.cpp can serve it.

    Raises: LearnError.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with learning():
        from workers.learning import adapter, base_model
        from workers.learning.distillation import read_chats

        chats, beside = read_chats(data), data.with_name(HELD_OUT)
        unseen = read_chats(beside) if beside != data and beside.is_file() and beside.stat().st_size else []
        folder = base or base_model.as_hugging_face(work / "base")
        adapter.train_chats(folder, chats, out, adapter.Recipe(), unseen)
        config = msgspec.json.decode((folder / "config.json").read_bytes())
        if config["model_type"] == "llama":
            heads = config["num_attention_heads"]
            adapter.to_gguf(out, out / "adapter.gguf", heads, config.get("num_key_value_heads") or heads)
        made = msgspec.json.decode((out / "recipe.json").read_bytes())
    said = f"adapter on {len(chats)} chats, {made['steps']} steps"
    if not unseen:
        return said
    before, after = made["base_nats_per_token"], made["adapter_nats_per_token"]
    return f"{said}: {before:.3f} -> {after:.3f} nats a token on {len(unseen)} chats that it was not trained on"
