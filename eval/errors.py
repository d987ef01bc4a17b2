"""What can go wrong with an evaluation. Every message says what was found, what was expected, and what to do."""

from __future__ import annotations

from retrieval.errors import RagError


class EvalError(RagError):
    """A dataset, a run folder or another file of an evaluation cannot be used as it is."""
