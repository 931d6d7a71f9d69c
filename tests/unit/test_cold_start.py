"""Categories out of past tickets alone. What clusters needs scikit-learn, from the `learn` extra."""

import numpy as np
import pytest

from workers.learning.cold_start import LEAST_TICKETS, NAMING_TICKETS, Reservoir, cluster, names_of


def test_a_reservoir_keeps_all_of_a_short_stream_and_a_sample_of_a_long_one() -> None:
    """Of 3,000 items each third of the stream is about a third of the sample."""
    short = Reservoir[int](10, seed=1)
    long = Reservoir[int](300, seed=1)
    for item in range(3_000):
        if item < 10:
            short.add(item)
        long.add(item)
    assert short.kept == list(range(10))
    assert (long.seen, len(set(long.kept))) == (3_000, 300)
    assert all(70 < sum(third * 1_000 <= i < (third + 1) * 1_000 for i in long.kept) < 130 for third in range(3))


def test_clusters_are_named_by_the_words_that_tell_them_apart() -> None:
    """What all say alike names none; another form of the first word is not the second."""
    texts = ["please refund the double charge, refunds"] * 9 + ["please reset the login password"] * 9
    assert names_of(texts, [0] * 9 + [1] * 9) == {0: "charge-double", 1: "login-password"}
    assert names_of(["refund refunds x1"] * 9 + ["login"] * 9, [0] * 9 + [1] * 9) == {0: "refund", 1: "login"}


def test_names_are_unique_and_hold_no_dots() -> None:
    """Three clusters with the same words, and one without any."""
    texts = ["router box lamp"] * 30 + ["1.2.3 a.b"] * 30 + ["bill.pdf"] * 30
    names = names_of(texts, [0] * 10 + [1] * 10 + [2] * 10 + [3] * 30 + [4] * 30)
    assert len(set(names.values())) == 5
    assert not any("." in name for name in names.values())
    assert names[3] == "topic-4"


def test_a_word_of_few_tickets_names_nothing() -> None:
    """It may be a customer's name, and names stand in the model, in events and in logs."""
    texts = ["Zebedee"] * (NAMING_TICKETS - 1) + ["router"] * 9 + ["bill"] * 9
    names = names_of(texts, [0] * (NAMING_TICKETS - 1 + 9) + [1] * 9)
    assert names == {0: "router", 1: "bill"}


def topics(sizes: dict[str, int], seed: int = 3) -> tuple[np.ndarray, list[str]]:
    """Embeddings around a direction a topic, and texts that name it."""
    rng = np.random.default_rng(seed)
    points = []
    for size in sizes.values():
        centre = rng.normal(size=384)
        points.append(centre / np.linalg.norm(centre) + 0.02 * rng.normal(size=(size, 384)))
    stacked = np.vstack(points)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True), [t for t, n in sizes.items() for _ in range(n)]


SIX = {"refund charge": 40, "login password": 40, "roaming abroad": 40, "parcel track": 40, "slow speed": 40, "sim": 40}


def test_tickets_about_one_thing_get_one_category() -> None:
    """Six topics: the number of categories is found, and each is named by its own words."""
    pytest.importorskip("sklearn")
    embeddings, texts = topics(SIX)
    found = cluster(embeddings, texts, seed=1)
    assert dict(zip(texts, found, strict=True)).keys() == SIX.keys()
    assert len(set(zip(texts, found, strict=True))) == 6
    assert dict(zip(texts, found, strict=True))["sim"] == "sim"
    assert dict(zip(texts, found, strict=True))["refund charge"] == "charge-refund"


def test_the_same_tickets_get_the_same_categories() -> None:
    """Names and all: a model is made again from its command."""
    pytest.importorskip("sklearn")
    embeddings, texts = topics(SIX)
    assert cluster(embeddings, texts, seed=1) == cluster(embeddings, texts, seed=1)


def test_no_category_is_of_a_handful_of_tickets() -> None:
    """Three stray tickets go to what is nearest: no head could be fitted on them."""
    pytest.importorskip("sklearn")
    embeddings, texts = topics(SIX | {"stray": 3})
    found = cluster(embeddings, texts, seed=1)
    assert min(found.count(name) for name in set(found)) >= LEAST_TICKETS


def test_too_few_or_identical_tickets_are_an_error() -> None:
    """It says how many there must be."""
    pytest.importorskip("sklearn")
    embeddings, texts = topics({"refund": LEAST_TICKETS * 2 - 1})
    with pytest.raises(ValueError, match="19 tickets: at least 20"):
        cluster(embeddings, texts, seed=1)
    embeddings, texts = topics({"refund": 1})
    with pytest.raises(ValueError, match="50 tickets say the same"):
        cluster(np.repeat(embeddings, 50, axis=0), texts * 50, seed=1)


def test_a_few_texts_many_times_over_are_as_many_categories() -> None:
    """Forms that a helpdesk fills in: three different ones, twenty times each."""
    pytest.importorskip("sklearn")
    embeddings, texts = topics({"refund": 1, "login": 1, "roaming": 1})
    assert len(set(cluster(np.repeat(embeddings, 20, axis=0), list(np.repeat(texts, 20)), seed=1))) in (2, 3)
