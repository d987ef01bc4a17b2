"""Re-ranking by hand and whatever the scores; a cross-encoder from a folder, and none from anywhere else."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import ConfigError
from retrieval.interaction import Comparison
from retrieval.rerank import _LEXICAL_UNREAD, _WEIGHTS, Candidates, CrossEncoder, rerank, standard

relaxed = settings(max_examples=60, deadline=None)


def candidates(best, weights, **scores):
    """Candidates that differ in what is given, and match each question token as well as `best`, (n, m), says."""
    best = np.array(best, dtype=np.float32)
    n = len(best)
    columns = {
        name: np.array(scores.get(name, np.zeros(n)), dtype=np.float64) for name in ("dense", "lexical", "overlap")
    }
    compared = Comparison(
        best=best,
        whole=(best @ weights).astype(np.float32),
        nearby=np.array(scores.get("nearby", np.zeros((n, 3))), dtype=np.float32),
        phrases=np.array(scores.get("phrases", np.zeros((n, 2))), dtype=np.float32),
    )
    return Candidates(
        fused=np.array(scores.get("fused", np.zeros(n)), dtype=np.float64), comparison=compared, **columns
    )


@st.composite
def any_candidates(draw, *, spread=True):
    """Of eighths, so that equal candidates have equal sums; not `spread`: one of them has all that the others have.

    Spread is looked for in the first twenty alone, so where there is to be none there are no more.
    """
    eighth = st.integers(-8, 8).map(lambda number: number / 8)
    n, m = draw(st.integers(1, 25 if spread else 20)), draw(st.sampled_from([1, 2, 4]))

    def rows(*shape):
        return np.array(draw(st.lists(eighth, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))).reshape(
            shape
        )

    best = rows(n, m)
    if not spread:
        best[draw(st.integers(0, n - 1))] = best.max(axis=0)
    names = ("dense", "lexical", "overlap", "fused")
    made = candidates(
        best, np.full(m, 1 / m), nearby=rows(n, 3), phrases=rows(n, 2), **{name: rows(n) for name in names}
    )
    return made, np.full(m, 1 / m)


KNOWN = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(any_candidates(), KNOWN)
@relaxed
def test_every_position_comes_once(found, known):
    assert sorted(rerank(*found, known=known).tolist()) == list(range(len(found[0].fused)))


def test_nothing_to_order():
    assert rerank(candidates(np.zeros((0, 2)), np.array([0.5, 0.5])), np.array([0.5, 0.5]), known=1).shape == (0,)
    assert rerank(candidates(np.zeros((3, 0)), np.zeros(0)), np.zeros(0), known=0).tolist() == [0, 1, 2]


@given(any_candidates(), KNOWN)
@relaxed
def test_equal_candidates_keep_their_order(found, known):
    made, weights = found
    twice = np.repeat(np.arange(len(made.fused)), 2)
    compared = made.comparison
    doubled = Candidates(
        made.dense[twice], made.lexical[twice], made.overlap[twice], made.fused[twice],
        Comparison(compared.best[twice], compared.whole[twice], compared.nearby[twice], compared.phrases[twice]),
    )  # fmt: skip
    at = {position: place for place, position in enumerate(rerank(doubled, weights, known=known).tolist())}
    assert all(at[2 * one] < at[2 * one + 1] for one in range(len(made.fused)))


def weighted_sum(found, known):
    """The definition, in loops."""
    compared = found.comparison
    columns = {
        "dense": found.dense, "lexical": found.lexical, "overlap": found.overlap, "whole": compared.whole,
        "nearby 16": compared.nearby[:, 0], "nearby 32": compared.nearby[:, 1], "nearby 64": compared.nearby[:, 2],
        "phrases mean": compared.phrases[:, 0], "phrases worse": compared.phrases[:, 1],
    }  # fmt: skip
    share = {"dense": known**2, "overlap": 1.0, "lexical": 1.0}
    total = np.zeros(len(found.fused))
    for name, values in columns.items():
        weight = _WEIGHTS[name] * share.get(name, known)
        if name == "lexical":
            weight += (1 - known) * _LEXICAL_UNREAD
        deviation = np.std(values.astype(np.float64))
        if deviation > 1e-9:
            total += weight * (values - values.astype(np.float64).mean()) / deviation
    return total


@given(any_candidates(spread=False), KNOWN)
@relaxed
def test_where_one_passage_has_all_the_order_is_that_of_the_weighted_sum(found, known):
    expected = weighted_sum(found[0], known)
    order = rerank(*found, known=known)
    assert (np.diff(expected[order]) <= 1e-9).all()


@given(any_candidates())
@relaxed
def test_what_the_encoder_cannot_read_does_not_count(found):
    made, weights = found
    blank = candidates(np.zeros_like(made.comparison.best), weights, lexical=made.lexical, overlap=made.overlap)
    assert rerank(made, weights, known=0).tolist() == rerank(blank, weights, known=0).tolist()


def test_a_passage_that_complements_the_first_is_lifted():
    """Question of two tokens, half each. The first passage has one of them, the last the other, the two in the middle
    are nearly as good as the first but add nothing: together half more than any alone, so the last comes second.
    """
    weights = np.array([0.5, 0.5])
    best = [[1, 0], [0.95, 0], [0.9, 0], [0, 0.7]]
    found = candidates(best, weights, fused=[1, 0.9, 0.8, 0])
    assert rerank(found, weights, known=1).tolist() == [0, 3, 1, 2]
    assert rerank(found, weights, known=0).tolist() == [0, 1, 2, 3]
    alone = candidates([[1, 1], *best[1:]], weights, fused=[1, 0.9, 0.8, 0])
    assert rerank(alone, weights, known=1).tolist() == [0, 1, 2, 3]  # nothing is missing from the first


def test_where_passages_must_be_combined_the_fused_order_counts_more():
    """The best match is last of the fused list: it leads where it holds all, not where much is missing from it."""
    weights = np.full(4, 0.25)
    fused = [1, 0.5, 0]
    whole = candidates([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], weights, fused=fused)
    assert rerank(whole, weights, known=1).tolist() == [2, 0, 1]
    pieces = candidates([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.6, 0.6, 0, 0]], weights, fused=fused)
    assert rerank(pieces, weights, known=1).tolist()[0] == 0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9))
@relaxed
def test_standard_scores(values):
    found = standard(np.array(values))
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found.std() == pytest.approx(1, abs=1e-6) or not found.any()


# ---- the cross-encoder -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def save_cross_encoder(tmp_path_factory, save_tiny_model):
    def save(**options):
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("cross-encoder")
        save_tiny_model(base)
        config = AutoConfig.from_pretrained(base)
        for name, value in options.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def cross_encoder(save_cross_encoder):
    return CrossEncoder.load(str(save_cross_encoder(num_labels=1)))


@pytest.fixture
def asked(monkeypatch):
    """Whoever is asked for over the network."""
    found = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: found.append(where) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda *where: found.append(where))
    return found


def test_a_cross_encoder_scores_each_passage(cross_encoder):
    passages = ["the cat", "the cat the cat a b c", "", "x"]
    scores = cross_encoder.scores("the cat", passages)
    assert scores.dtype == np.float64
    assert scores.shape == (4,)
    alone = [cross_encoder.scores("the cat", [passage])[0] for passage in passages]
    np.testing.assert_allclose(scores, alone, atol=1e-5)
    assert len(set(scores.tolist())) > 1
    assert cross_encoder.scores("the cat", []).shape == (0,)


@pytest.mark.parametrize("strange", ["\ud800", "\x00\x07", "the " * 5000, "🧑‍🚀", "[SEP] [CLS]"])
def test_a_cross_encoder_reads_anything(cross_encoder, strange):
    assert np.isfinite(cross_encoder.scores(strange, ["the cat", strange])).all()
    assert np.isfinite(cross_encoder.scores("the cat", [strange])).all()


def test_a_model_is_loaded_once(save_cross_encoder):
    folder = str(save_cross_encoder(num_labels=1))
    assert CrossEncoder.load(folder) is CrossEncoder.load(folder)


def test_a_model_that_classifies_is_refused(save_cross_encoder):
    classifier = CrossEncoder.load(str(save_cross_encoder(num_labels=3)))
    with pytest.raises(ConfigError, match=r"gives \(3,\) numbers a pair, expected one; choose a model trained for"):
        classifier.scores("the cat", ["the cat", "x"])


@pytest.mark.parametrize("name", ["no-such-folder/no-such-model", "/no/such/folder", "", "..", "a" * 300, "x\0y"])
def test_a_missing_model_says_what_to_do_and_nobody_is_asked(asked, name):
    with pytest.raises(ConfigError) as caught:
        CrossEncoder.load(name)
    assert 'set reranker = "interaction" to do without' in str(caught.value)
    assert not asked


def test_for_a_model_in_a_folder_nobody_is_asked(asked, save_cross_encoder):
    assert CrossEncoder.load(str(save_cross_encoder(num_labels=1))).scores("the cat", ["x"]).shape == (1,)
    assert not asked


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[1]"])
def test_a_damaged_model_says_what_to_do(save_cross_encoder, file, damage):
    folder = save_cross_encoder(num_labels=1)
    (folder / file).write_bytes(damage)
    with pytest.raises(ConfigError, match="re-ranker"):
        CrossEncoder.load(str(folder))
