"""Training of the router's model: linear heads on a frozen sentence encoder, all in one int8 ONNX graph.

The encoder is MiniLM-L6 (all-MiniLM-L6-v2, Apache-2.0). The heads are fitted on
what the int8 encoder gives, so training and serving see the same numbers, and
the artefact is refused when int8 decides otherwise than float32. Needs the
`learn` extra.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.learning.encoder import ENCODER, MAX_TOKENS, export_encoder, quantise
from workers.router.classifier import EMBEDDING_SIZE, Classifier, Scores, load_tokenizer, padded

Floats = NDArray[np.float64]

LEAST_AGREEMENT = 0.97
"""int8 and float32 must decide alike on this share of the validation rows."""

FOLDS = 5
SEED = 7
REGULARISATION = [0.3, 3.0, 30.0]
"""Inverse strengths tried by cross-validation; between them the loss is flat."""

LENGTH_WEIGHT = 0.3
CATEGORY_WEIGHT = 0.5
"""Scales of log(tokens) and of the category probabilities beside the embedding, whose parts are about 0.05: what a
feature weighs under one common regularisation. In trials with simulated labels p_ok had an AUROC of 0.76 with both and
0.71 with neither; nearest neighbours had 0.77 and need the training tickets inside the graph."""

_HEADS = """
<ir_version: 10, opset_import: ["" : 18]>
heads (float[batch, 384] pooled, int64[batch, sequence] attention_mask)
    => (float[batch] p_ok, float[batch, categories] category_probs, float[batch, 384] embedding)
{
    embedding = Identity (pooled)
    category_logits = Gemm (pooled, category_weights, category_bias)
    category_probs = Softmax <axis = -1> (category_logits)
    tokens = ReduceSum <keepdims = 1> (attention_mask, second_axis)
    tokens_float = Cast <to = 1> (tokens)
    log_tokens = Log (tokens_float)
    features = Concat <axis = 1> (pooled, log_tokens, category_probs)
    ok_logit = Gemm (features, ok_weights, ok_bias)
    ok_column = Sigmoid (ok_logit)
    p_ok = Squeeze (ok_column, second_axis)
}
"""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A ticket's text with its category and, where tier-1 was tried on it, whether the answer was acceptable."""

    text: str
    category: str
    acceptable: bool | None


@dataclass(frozen=True, slots=True)
class Heads:
    """The fitted heads: weights (inputs, outputs) and biases, float64. Inputs of p_ok are unscaled features."""

    categories: tuple[str, ...]
    category_weights: Floats
    category_bias: Floats
    ok_weights: Floats
    ok_bias: Floats


def train_router(
    rows: Sequence[Labelled], validation: Sequence[Labelled], out: Path, command: str = "headgate learn router"
) -> dict[str, Any]:
    """Train on `rows`, measure on `validation`; writes model.onnx, tokenizer.json and card.json to `out`.

    Every row teaches the category, those with a label teach p_ok too. Returns the card.

    Raises: ValueError if there are too few labels of a kind, or if int8 and float32 decide differently too often.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        exact = export_encoder(Path(folder) / "float32")
        small = quantise(exact, Path(folder) / "int8" / "encoder.onnx")
        heads = fit_heads(rows, *_encoded(small, [row.text for row in rows]))
        models = [attach(encoder, heads, encoder.with_name("model.onnx")) for encoder in (exact, small)]
        texts = [row.text for row in validation]
        exact_scores, scores = (Classifier(model).classify(texts) for model in models)
        agreement = agreement_of(exact_scores, scores)
        if agreement < LEAST_AGREEMENT:
            raise ValueError(
                f"int8 and float32 agree on {agreement:.1%} of the decisions, less than {LEAST_AGREEMENT:.0%}"
            )
        for file in ("model.onnx", "tokenizer.json"):
            shutil.copyfile(small.with_name(file), out / file)
    card = _card(rows, validation, scores) | {
        "version": Classifier(out / "model.onnx").version,
        "agreement_int8_float32": round(agreement, 4),
        "command": command,
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def _encoded(encoder: Path, texts: Sequence[str]) -> tuple[Floats, Floats]:
    """Embeddings (n, 384) and log token counts (n,), one text at a time as the classifier does it on the CPU."""
    import onnxruntime

    tokenizer = load_tokenizer(encoder.with_name("tokenizer.json"), MAX_TOKENS)
    session = onnxruntime.InferenceSession(encoder, providers=["CPUExecutionProvider"])
    pieces = [tokenizer.encode(text).ids for text in texts]
    embeddings = [session.run(["pooled"], padded([ids], 1))[0][0] for ids in pieces]
    return np.stack(embeddings).astype(np.float64), np.log([len(ids) for ids in pieces])


def fit_heads(rows: Sequence[Labelled], embeddings: Floats, log_tokens: Floats) -> Heads:
    """Fit both heads: multinomial logistic regression for the category, calibrated logistic regression for p_ok.

    Raises: ValueError if a category or a label has fewer rows than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    categories = np.array([row.category for row in rows])
    labelled = np.array([row.acceptable is not None for row in rows])
    acceptable = np.array([row.acceptable is True for row in rows])[labelled]
    _enough({f"category {name}": int((categories == name).sum()) for name in np.unique(categories)})
    _enough({f"label acceptable = {label}": int((acceptable == label).sum()) for label in (True, False)})
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)

    category = _regression(embeddings, categories, folds)
    # Out of fold: a model's opinion of its own training rows is surer than it will ever be of a new ticket.
    opinions = cross_val_predict(category, embeddings, categories, cv=folds, method="predict_proba")
    scales = np.array([1.0] * EMBEDDING_SIZE + [LENGTH_WEIGHT] + [CATEGORY_WEIGHT] * opinions.shape[1])
    features = (np.column_stack([embeddings, log_tokens, opinions]) * scales)[labelled]
    ok = _regression(features, acceptable, folds)
    slope, shift = platt(cross_val_predict(ok, features, acceptable, cv=folds, method="decision_function"), acceptable)
    category_weights, category_bias = _softmax_form(category)
    return Heads(
        categories=tuple(category.classes_.tolist()),
        category_weights=category_weights,
        category_bias=category_bias,
        ok_weights=(slope * ok.coef_ * scales).T,
        ok_bias=slope * ok.intercept_ + shift,
    )


def _enough(counts: Mapping[str, int]) -> None:
    if few := [f"{count} of {name}" for name, count in counts.items() if count < FOLDS]:
        raise ValueError(f"too few examples to train on ({', '.join(few)}): {FOLDS} of each are the least")


def _regression(features: Floats, target: NDArray[Any], folds: Any) -> Any:
    """A logistic regression whose regularisation has the least cross-validated log loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(
        LogisticRegression(max_iter=5_000), {"C": REGULARISATION}, scoring="neg_log_loss", cv=folds, error_score="raise"
    )
    return search.fit(features, target).best_estimator_


def _softmax_form(regression: Any) -> tuple[Floats, Floats]:
    """Weights (inputs, classes) and bias; scikit-learn keeps one column for two classes, the second one's."""
    weights, bias = regression.coef_.T, regression.intercept_
    if len(regression.classes_) == 2:
        return np.column_stack([np.zeros_like(weights), weights]), np.append(0.0, bias)
    return weights, bias


def platt(logits: Floats, acceptable: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and shift that make out-of-fold logits into calibrated ones.

    Where they say nothing (a slope below 0 is what cross-validation makes of noise), every ticket gets the base rate.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression().fit(logits[:, None], acceptable)
    if fitted.coef_[0, 0] > 0:
        return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    rate = acceptable.mean()
    return 0.0, float(np.log(rate / (1 - rate)))


def attach(encoder: Path, heads: Heads, out: Path) -> Path:
    """Write encoder and heads as one graph, its metadata filled in; returns `out`."""
    import onnx

    model = onnx.load(encoder)
    # An output named like one of the encoder's inner values makes a file that onnxruntime refuses.
    onnx.compose.add_prefix(model, "encoder/", rename_inputs=False, rename_outputs=False, inplace=True)
    added = onnx.parser.parse_model(_HEADS).graph
    weights = {
        "category_weights": heads.category_weights.astype(np.float32),
        "category_bias": heads.category_bias.astype(np.float32),
        "ok_weights": heads.ok_weights.astype(np.float32),
        "ok_bias": heads.ok_bias.astype(np.float32),
        "second_axis": np.array([1], np.int64),
    }
    model.graph.node.extend(added.node)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    del model.graph.output[:]
    model.graph.output.extend(added.output)
    onnx.helper.set_model_props(
        model, {"categories": json.dumps(heads.categories), "max_tokens": str(MAX_TOKENS), "encoder": ENCODER}
    )
    onnx.checker.check_model(model)
    onnx.save(model, out)
    return out


def agreement_of(exact: Sequence[Scores], small: Sequence[Scores]) -> float:
    """The share of tickets with the same category and the same side of p_ok = 0.5."""
    pairs = zip(exact, small, strict=True)
    return float(np.mean([a.category == b.category and (a.p_ok >= 0.5) == (b.p_ok >= 0.5) for a, b in pairs]))


def calibration_error(p_ok: Floats, acceptable: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: |mean p_ok - share acceptable| over equal-width bins, weighted by their tickets."""
    bin_of = np.minimum((p_ok * bins).astype(int), bins - 1)
    gaps = [abs(float((p_ok - acceptable)[bin_of == b].sum())) for b in range(bins)]
    return sum(gaps) / len(p_ok)


def auroc(p_ok: Floats, acceptable: NDArray[np.bool_]) -> float:
    """The probability that a random acceptable ticket gets a higher p_ok than a random other one; ties count half."""
    good, bad = p_ok[acceptable][:, None], p_ok[~acceptable][None, :]
    return float(((good > bad) + 0.5 * (good == bad)).mean())


def measures(rows: Sequence[Labelled], scores: Sequence[Scores]) -> dict[str, float]:
    """How good the scores are on rows that the model was not trained on."""
    found = {"category_accuracy": float(np.mean([s.category == r.category for r, s in zip(rows, scores, strict=True)]))}
    labelled = [(s.p_ok, r.acceptable) for r, s in zip(rows, scores, strict=True) if r.acceptable is not None]
    if labelled:
        p_ok, acceptable = np.array([p for p, _ in labelled]), np.array([a for _, a in labelled])
        found |= {
            "acceptable_share": float(acceptable.mean()),
            "p_ok_mean": float(p_ok.mean()),
            "p_ok_calibration_error": calibration_error(p_ok, acceptable),
            "p_ok_brier": float(np.mean((p_ok - acceptable) ** 2)),
        }
        if 0 < acceptable.mean() < 1:
            found["p_ok_auroc"] = auroc(p_ok, acceptable)
    return {name: round(value, 4) for name, value in found.items()}


def _card(rows: Sequence[Labelled], validation: Sequence[Labelled], scores: Sequence[Scores]) -> dict[str, Any]:
    data = json.dumps([[astuple(row) for row in part] for part in (rows, validation)])
    return {
        "encoder": ENCODER,
        "trained_on": _counts(rows),
        "validated_on": _counts(validation),
        "data_sha256": hashlib.sha256(data.encode()).hexdigest(),
        "validation": measures(validation, scores),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _counts(rows: Sequence[Labelled]) -> dict[str, int]:
    labels = [row.acceptable for row in rows]
    return {"tickets": len(rows), "acceptable": labels.count(True), "not_acceptable": labels.count(False)}
