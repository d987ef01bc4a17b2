"""Re-order candidates by late interaction. Knows passages and scores; nothing of indexes or files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.interaction import Interaction, Passage, Question


def rerank(interaction: Interaction, question: Question, passages: Sequence[Passage]) -> list[tuple[int, float]]:
    """(position in `passages`, score) best first; equal scores keep their order."""
    scores = interaction.score(question, passages)
    order = np.argsort(-scores, kind="stable")
    return [(int(position), float(scores[position])) for position in order]
