"""`headgate learn checker|thresholds|tier1 --data`. What trains is skipped without the `learn` extra."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from schemas.policy import Policy
from streams.cli import app
from streams.learn import LearnError
from tests.records import AT
from workers.checker.features import NAMES
from workers.checker.scorer import load_scorer
from workers.learning.adapter import TARGETS, Chat
from workers.learning.datasets import Made, plain_draft, plain_row
from workers.learning.distillation import plain
from workers.learning.provenance import Kept, Provenance, contents
from workers.learning.scorer import LabelledDraft
from workers.learning.thresholds import Row
from workers.tier1.prompts import ChatMessage

MADE = Made("router-1", "small-1")
SHADOW = {"p_ok_threshold": 1, "score_threshold": 1, "state": "shadow"}


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["learn", *map(str, arguments)])


def written(path: Path, rows: Sequence[Any], plain_of: Any, made: Made = MADE) -> Path:
    """Rows as `headgate dataset` writes them."""
    of = {"model": made.tier1, "model_version": made.router, "policy_version": "v1"}
    origin = Provenance(ticket="0", records=(), at=AT, category="orders", **of)
    path.write_bytes(contents([Kept(row, origin) for row in rows], plain_of).lines)
    return path


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings, and with the policy that was in force when the data set was made."""
    (tmp_path / "headgate.toml").write_text("[certify]\nalpha = 0.1\nvalid_days = 7\n")
    start = {
        "scope": "shop",
        "version": "v1",
        "default": SHADOW,
        "categories": {"orders": SHADOW | {"since": AT.isoformat()}},
        "tier2_customers": ["vip"],
        "scorer": "scorer-1",
    }
    (tmp_path / "policy.json").write_text(json.dumps(start))
    monkeypatch.setenv("HEADGATE_CONFIG", str(tmp_path / "headgate.toml"))
    return tmp_path


def labelled(count: int) -> list[Row]:
    """A score that tells: below a half the drafts are bad."""
    scores = np.linspace(0.01, 0.99, count)
    return [Row("orders", 0.8, float(score), bool(score > 0.5), 0.2) for score in scores]


def test_thresholds_become_a_policy_file(configured: Path) -> None:
    """For the models that the rows are about, to the settings' goal; all else as in the policy that was in force."""
    data = written(configured / "rows.jsonl", labelled(600), plain_row)
    done = run("thresholds", "--data", data, "--out", configured / "new" / "policy.json")
    assert done.exit_code == 0, done.output
    policy = msgspec.json.decode((configured / "new" / "policy.json").read_bytes(), type=Policy)
    orders = policy.categories["orders"]
    assert orders.certificate is not None
    assert (orders.state, orders.certificate.alpha, orders.certificate.labels) == ("active", 0.1, 600)
    assert orders.certificate.valid_until is not None
    assert (orders.certificate.valid_until - orders.certificate.solved_at).days == 7
    assert orders.since == AT
    assert 0.3 < orders.score_threshold < 0.6
    assert (policy.router_model, policy.tier1_model, policy.scorer) == (*MADE, "scorer-1")
    assert (policy.scope, policy.tier2_customers, policy.default.state) == ("shop", ("vip",), "shadow")
    assert policy.version in done.output.replace("\n", "")
    assert policy.version != "v1"
    assert "1 of 1 categories certified" in done.output.replace("\n", " ")


def test_too_few_labels_certify_nothing(configured: Path) -> None:
    """And the policy says how many are missing."""
    data = written(configured / "rows.jsonl", labelled(20), plain_row)
    assert run("thresholds", "--data", data, "--out", configured / "new.json").exit_code == 0
    policy = msgspec.json.decode((configured / "new.json").read_bytes(), type=Policy)
    assert (policy.categories["orders"].state, policy.categories["orders"].certificate) == ("shadow", None)
    assert policy.categories["orders"].labels_missing


def test_rows_of_other_models_are_not_mixed(configured: Path) -> None:
    """Two files in one: their scores can't be compared."""
    one = written(configured / "a.jsonl", labelled(20), plain_row)
    other = written(configured / "b.jsonl", labelled(20), plain_row, Made("router-2", "small-1"))
    one.write_bytes(one.read_bytes() + other.read_bytes())
    failed = run("thresholds", "--data", one, "--out", configured / "new.json")
    with pytest.raises(LearnError, match="2 pairs of router and tier-1 model"):
        raise failed.exception
    assert not (configured / "new.json").exists()


@pytest.mark.parametrize("step", ["checker", "thresholds", "tier1"])
def test_rows_of_another_kind_are_refused(step: str, configured: Path) -> None:
    """By file and line, and nothing is written."""
    data = configured / "rows.jsonl"
    data.write_text('{"text": "a customer wrote this"}\n')
    failed = run(step, "--data", data, "--out", configured / "out")
    assert isinstance(failed.exception, LearnError)
    assert "rows.jsonl:1: no row of this kind" in str(failed.exception)
    assert "customer" not in str(failed.exception)
    assert not (configured / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("thresholds", "--out", "o"),
        ("tier1", "--out", "o"),
        ("checker", "--data", "d"),
        ("checker", "--data", "d", "--out", "o", "--base", "b"),
        ("router", "--data", "d", "--out", "o"),
        ("checker", "--data", "d", "--out", "o", "--labels", "l"),
        ("checker", "--base", "b"),
        ("checker", "--out", "o"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(arguments: tuple[str, ...]) -> None:
    """Before anything is read: exit code 2, as for any misuse."""
    assert run(*arguments).exit_code == 2


def test_a_scorer_is_fitted_on_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And loads as the checker loads it."""
    monkeypatch.setattr("workers.learning.scorer.REPEATS", 1)
    pytest.importorskip("sklearn")
    pytest.importorskip("onnx")
    rng = np.random.default_rng(1)
    drafts = []
    for _ in range(120):
        values = rng.normal(size=len(NAMES)).astype(np.float32)
        drafts.append(LabelledDraft(values, 0.5, bool(values[0] + 0.3 * rng.normal() > 0)))
    data = written(tmp_path / "rows.jsonl", drafts, plain_draft)
    done = run("checker", "--data", data, "--out", tmp_path / "checker")
    assert done.exit_code == 0, (done.output, done.exception)
    scorer = load_scorer(tmp_path / "checker" / "scorer.onnx")
    assert f"scorer {scorer.version} on 120 drafts: AUROC 0." in done.output
    good, bad = np.zeros((1, len(NAMES)), np.float32), np.zeros((1, len(NAMES)), np.float32)
    good[0, 0], bad[0, 0] = 2, -2
    assert scorer.score(good)[0] > 0.7 > 0.3 > scorer.score(bad)[0]


def test_drafts_that_are_all_good_make_no_scorer(tmp_path: Path) -> None:
    """There is nothing to tell apart."""
    pytest.importorskip("sklearn")
    drafts = [LabelledDraft(np.zeros(len(NAMES), np.float32), 0.5, True)] * 40
    failed = run("checker", "--data", written(tmp_path / "rows.jsonl", drafts, plain_draft), "--out", tmp_path / "c")
    assert isinstance(failed.exception, LearnError)
    assert not (tmp_path / "c").exists()


SAID = "you answer customers of fernway . where is my router it takes 2 days one two three four"
WORDS = ("<unk>", "<end>", *SAID.split())

# peft reads an attribute of transformers that has a new name.
ignores_peft = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two tiny random layers, and a tokenizer of a few words, as Hugging Face folders hold them."""
    pytest.importorskip("torch")
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<end>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} . {% endfor %}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=1,
        pad_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def a_chat(number: int) -> Chat:
    asked = f"where is my router {WORDS[-4 + number % 4]} ?"
    messages = ("system", "you answer customers of fernway ."), ("user", asked)
    return Chat(tuple(ChatMessage(role=role, content=text) for role, text in messages), "it takes 2 days .")


@ignores_peft
def test_tier1_learns_a_data_sets_answers(base: Path, tmp_path: Path) -> None:
    """A LoRA run end to end: the answers become likelier, on chats that it has not seen, and llama.cpp's file is
    there."""
    gguf = pytest.importorskip("gguf")
    written(tmp_path / "train.jsonl", [a_chat(number) for number in range(160)], plain)
    written(tmp_path / "held_out.jsonl", [a_chat(number) for number in range(5)], plain)
    out = tmp_path / "adapter"
    done = run("tier1", "--data", tmp_path / "train.jsonl", "--out", out, "--base", base)
    assert done.exit_code == 0, (done.output, done.exception)
    made = json.loads((out / "recipe.json").read_text())
    assert (made["pairs"], made["held_out"], made["steps"]) == (160, 5, 32)
    assert made["adapter_nats_per_token"] < made["base_nats_per_token"] - 0.2
    assert "adapter on 160 chats" in done.output
    assert (out / "adapter_model.safetensors").is_file()
    tensors = {tensor.name for tensor in gguf.GGUFReader(out / "adapter.gguf").tensors}
    assert tensors == {
        f"blk.{layer}.{name}.weight.{side}"
        for layer in range(2)
        for name in TARGETS.values()
        for side in ("lora_a", "lora_b")
    }


@ignores_peft
def test_too_few_chats_for_a_step_are_refused(base: Path, tmp_path: Path) -> None:
    """An adapter that learned nothing would look like one that did."""
    data = written(tmp_path / "train.jsonl", [a_chat(1)], plain)
    failed = run("tier1", "--data", data, "--out", tmp_path / "adapter", "--base", base)
    assert isinstance(failed.exception, LearnError)
    assert "too few" in str(failed.exception)
