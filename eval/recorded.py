"""The recorded output of any system as a system: a TREC run, or answers by question. Knows files; asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.errors import EvalError
from eval.folder import read_json
from eval.records import Candidate, Example, Outcome
from eval.trec import read_run
from reader.records import Answer, ReaderInfo
from retrieval.errors import RagError
from retrieval.records import Hit

_AT_ONCE = 500


class RecordedRun:
    """Documents that another system found, from a TREC run file."""

    at_once = _AT_ONCE

    def __init__(self, path: Path, *, k: int) -> None:
        self._runs, self._k = read_run(path), k
        self.ids = frozenset(self._runs)

    def outcomes(self, examples: Sequence[Example]) -> list[Outcome | RagError]:
        """Its list for each question; an empty one where the file has none."""
        return [self._outcome(self._runs.get(one.example_id, ())) for one in examples]

    def _outcome(self, found: Sequence[str]) -> Outcome:
        hits = tuple(
            Hit(rank, -float(rank), source, source, source, 0, 0, "")
            for rank, source in enumerate(found[: self._k], start=1)
        )
        return Outcome(hits, tuple(Candidate(source, (source,), None, None, None) for source in found), None, {})


class RecordedAnswers:
    """What another system answered: a JSON object, question id -> answer; "" is an abstention, as in SQuAD 2.0."""

    at_once = _AT_ONCE

    def __init__(self, path: Path) -> None:
        found: Mapping[str, object] = read_json(path, advice='expected an object like {"q1": "an answer", "q2": ""}')
        wrong = next((name for name, answer in found.items() if not isinstance(answer, str)), None)
        if wrong is not None:
            raise EvalError(f"{path}: the answer to {wrong!r} is {type(found[wrong]).__name__}, expected a text")
        self._answers = {name: str(answer) for name, answer in found.items()}
        self.ids = frozenset(self._answers)

    def outcomes(self, examples: Sequence[Example]) -> list[Outcome | RagError]:
        """Its answer to each question; one that it has not is an error."""
        return [self._outcome(one) for one in examples]

    def _outcome(self, example: Example) -> Outcome | RagError:
        text = self._answers.get(example.example_id)
        if text is None:
            return EvalError("the file has no answer to this question")
        answer = Answer(example.question, text, not text.strip(), (), (), ReaderInfo("recorded", ""))
        return Outcome((), (), None, {}, answer)
