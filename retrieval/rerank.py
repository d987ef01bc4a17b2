"""Re-order the fused candidates: by late interaction, or by a cross-encoder. Knows scores; nothing of indexes or files.

Where one passage answers, its own match decides. Where none holds all that is asked, although together they do, the
order follows the fused lists more, and each next passage is liked for the words that those above it lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoder import clean, model_folder
from retrieval.errors import ConfigError, MissingPackageError
from retrieval.interaction import Comparison

Scores = NDArray[np.float64]

# Pairwise logistic regression on halves of xquad_en, squad1_dev, scifact, cranfield and musique100, features as
# standard scores over the candidates; docs/evaluation.md has the table and what was tried.
_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "dense": 0.16,
        "lexical": 0.11,
        "overlap": 0.10,
        "whole": 0.08,
        "nearby 16": 0.13,
        "nearby 32": 0.09,
        "nearby 64": 0.08,
        "phrases mean": 0.12,
        "phrases worse": 0.12,
    }
)
_LEXICAL_UNREAD = 0.3  # more weight for the lexical score, by the share of the question that the encoder cannot read
# How much of the question the best passage lacks and the first twenty together have: .03 in the median of squad1_dev,
# .08 of scifact and cranfield, .11 of hotpot100, .16 of musique100.
_SPREAD_FROM = 20
_SPREAD_TRUSTS_FUSION = 0.10
_FUSION_SLOPE, _FUSION_MOST = 40.0, 6.0
_SPREAD_COMBINES, _SPREAD_COMBINES_FULLY = 0.08, 0.16
_COMBINE = 30.0  # standard scores that covering the whole rest of the question is worth
_COMBINED_RANKS = 10


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates of a question, n of them, as every stage has scored them; all float64 (n,) but the comparison."""

    dense: Scores
    lexical: Scores
    overlap: Scores
    fused: Scores
    comparison: Comparison


def rerank(found: Candidates, weights: NDArray[np.float64], *, known: float) -> NDArray[np.int64]:
    """Positions of the candidates, best first: int64 (n,).

    weights: (m,) of the question's tokens, sum 1. known: the share of them that the encoder can read, [0, 1]. Equal
    scores keep their order.
    """
    n = len(found.fused)
    if not n:
        return np.zeros(0, np.int64)
    missing = known * spread(found, weights)
    trust = min(_FUSION_MOST, max(0.0, missing - _SPREAD_TRUSTS_FUSION) * _FUSION_SLOPE)
    scores = standard(standard(_matched(found, known)) + trust * standard(found.fused))
    combine = np.clip((missing - _SPREAD_COMBINES) / (_SPREAD_COMBINES_FULLY - _SPREAD_COMBINES), 0, 1)
    return _combined(scores, found.comparison.best, weights, float(combine * _COMBINE))


def spread(found: Candidates, weights: NDArray[np.float64]) -> float:
    """How much better the first candidates match the question together than the best of them alone, [0, 1]."""
    best = found.comparison.best[np.argsort(-found.fused, kind="stable")[:_SPREAD_FROM]]
    return float(best.max(axis=0) @ weights - (best @ weights).max()) if best.size else 0.0


def standard(scores: Scores) -> Scores:
    """Standard scores: mean 0, deviation 1; zeros where all are the same."""
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 1e-9 else np.zeros_like(scores)


def _matched(found: Candidates, known: float) -> Scores:
    """The weighted sum of all that speaks for each candidate."""
    compared = found.comparison
    features = {
        "dense": known**2 * standard(found.dense),
        "lexical": standard(found.lexical) * (1 + (1 - known) * _LEXICAL_UNREAD / _WEIGHTS["lexical"]),
        "overlap": standard(found.overlap),
        "whole": known * standard(compared.whole.astype(np.float64)),
        **{
            f"nearby {width}": known * standard(compared.nearby[:, at].astype(np.float64))
            for at, width in enumerate((16, 32, 64))
        },
        "phrases mean": known * standard(compared.phrases[:, 0].astype(np.float64)),
        "phrases worse": known * standard(compared.phrases[:, 1].astype(np.float64)),
    }
    return np.asarray(sum(weight * features[name] for name, weight in _WEIGHTS.items()))


def _combined(
    scores: Scores, best: NDArray[np.float32], weights: NDArray[np.float64], combine: float
) -> NDArray[np.int64]:
    """Best first; each of the first ten is chosen for its score and for what it adds to those above it."""
    order = np.argsort(-scores, kind="stable")
    if combine <= 0:
        return order
    chosen: list[int] = [int(order[0])]
    left = order[1:]
    covered = best[chosen[0]]
    while len(left) and len(chosen) < _COMBINED_RANKS:
        gain = np.maximum(best[left] - covered, 0) @ weights
        at = int(np.argmax(scores[left] + combine * gain))
        chosen.append(int(left[at]))
        covered = np.maximum(covered, best[left[at]])
        left = np.delete(left, at)
    return np.concatenate([np.array(chosen, np.int64), left])


class CrossEncoder:
    """A cross-encoder of sentence-transformers: reads question and passage together. One a process and model."""

    def __init__(self, model: Any, name: str) -> None:
        self._model, self.name = model, name

    @classmethod
    def load(cls, name: str, *, device: str = "cpu") -> CrossEncoder:
        """Load from a folder or, where it was downloaded before, from the hub's cache; never from the network."""
        return _load_cross_encoder(name, device)

    def scores(self, question: str, passages: Sequence[str]) -> Scores:
        """Relevance of each passage, float64 (n,), on the model's own scale."""
        if not passages:
            return np.zeros(0)
        pairs = [(clean(question), clean(passage)) for passage in passages]
        found = np.asarray(self._model.predict(pairs, show_progress_bar=False), dtype=np.float64)
        if found.shape != (len(passages),):
            raise ConfigError(
                f"the cross-encoder '{self.name}' gives {found.shape[1:]} numbers a pair, expected one; choose a model"
                " trained for ranking"
            )
        return found


@lru_cache(maxsize=2)
def _load_cross_encoder(name: str, device: str) -> CrossEncoder:
    try:
        from sentence_transformers import CrossEncoder as Model
    except ImportError as error:
        raise MissingPackageError("a cross-encoder needs: pip install sentence-transformers") from error
    try:  # by its folder: for a name, sentence-transformers asks the hub whatever local_files_only says
        model = Model(
            str(model_folder(name)),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except MemoryError:
        raise
    except Exception as error:  # libraries raise what they like on bad files
        raise ConfigError(
            f"the re-ranker '{name}' cannot be used: expected a model folder or a model in the Hugging Face cache; set"
            f' reranker = "interaction" to do without ({type(error).__name__}: {" ".join(str(error).split())[:300]})'
        ) from error
    return CrossEncoder(model, name)
