"""What the citations of an answer are worth: exact, shown, borne out, needed, and from the documents people judged.

Recall and precision are those of ALCE (Gao et al., EMNLP 2023, "Enabling Large Language Models to Generate Text with
Citations"), counted like its script: over the sentences and the citations of one answer.
Knows recorded answers and examples; nothing of models or indexes. Every value lies in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.errors import EvalError
from eval.records import Example, Prediction
from reader.records import Citation, Sentence
from reader.verify import SUPPORTED

Entails = Callable[[str, Sequence[str]], bool]
"""Whether passages together bear a sentence out."""

TextOf = Callable[[str], str | None]
"""doc_id -> the text of the document; None where there is no such document."""


# ---- ALCE ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judged:
    """A sentence: how many citations it has, and whether all, each alone, and all but each bear it out."""

    cited: int
    together: bool
    alone: Callable[[int], bool]
    without: Callable[[int], bool]

    @property
    def needed(self) -> int:
        """How many citations count: none of a sentence that all of them together do not bear out.

        One is irrelevant that does not bear it out alone where the others do without it.
        """
        if not self.together:
            return 0
        return sum(self.cited == 1 or self.alone(at) or not self.without(at) for at in range(self.cited))


def alce(sentences: Sequence[tuple[str, Sequence[str]]], entails: Entails) -> tuple[float, float]:
    """Citation recall and precision of an answer: its sentences without markers, each with the passages it cites.

    Recall is the share of sentences that what they cite bears out; precision the share of citations that count. Each
    is 0 where there is nothing to count. The script looks at the first three citations of a sentence, this at all.
    """
    return _recall_and_precision([_judged(sentence, passages, entails) for sentence, passages in sentences])


def _judged(sentence: str, passages: Sequence[str], entails: Entails) -> _Judged:
    return _Judged(
        cited=len(passages),
        together=bool(passages) and entails(sentence, passages),
        alone=lambda at: entails(sentence, [passages[at]]),
        without=lambda at: entails(sentence, [*passages[:at], *passages[at + 1 :]]),
    )


def _recall_and_precision(sentences: Sequence[_Judged]) -> tuple[float, float]:
    recall = _share([sentence.together for sentence in sentences])
    cited = sum(sentence.cited for sentence in sentences)
    return recall or 0.0, sum(sentence.needed for sentence in sentences) / cited if cited else 0.0


# ---- a recorded answer -----------------------------------------------------------------------------------------------


def citation_values(prediction: Prediction, example: Example, text_of: TextOf) -> dict[str, float]:
    """The value of every measure that applies to an answer; none for an abstention, the worst for a failure.

    validity: share of citations of a passage that the reader was given whose marker stands in the text. span_exact:
    share whose quote stands in the document where they say. recall, precision: ALCE's, by the support that was recorded
    when the answer was checked. support: share of the citing sentences that are labelled supported. An answer of quotes
    has no sentences: each quote is one, and bears itself out if it is exact. gold_precision: share of the cited
    documents that are relevant; gold_recall: share of the relevant ones that are cited, by whichever copy of the same
    text; neither where no document is.

    Shares of nothing are absent: of citations, of judged documents. Raises EvalError where a sentence lacks the support
    that precision needs.
    """
    if prediction.error is not None:
        return dict.fromkeys(("validity", "span_exact", "recall", "precision", "support", *_gold(example)), 0.0)
    if prediction.answer is None or prediction.abstained:
        return {}
    exact = [_is_exact(citation, text_of) for citation in prediction.citations]
    judged = [_recorded(sentence, prediction) for sentence in prediction.sentences] or [_quote(each) for each in exact]
    recall, precision = _recall_and_precision(judged)
    cited = [sentence.label == "supported" for sentence in prediction.sentences if sentence.markers]
    values = {
        "validity": _share([_is_valid(citation, prediction) for citation in prediction.citations]),
        "span_exact": _share(exact),
        "recall": recall,
        "precision": precision,
        "support": _share(cited if prediction.sentences else exact),
        **_by_judged_documents(prediction, example),
    }
    return {name: value for name, value in values.items() if value is not None}


def _is_valid(citation: Citation, prediction: Prediction) -> bool:
    given = prediction.read or [hit.chunk_id for hit in prediction.hits]
    return citation.chunk_id in given and f"[{citation.marker}]" in (prediction.answer or "")


def _is_exact(citation: Citation, text_of: TextOf) -> bool:
    text = text_of(citation.doc_id)
    if text is None or not 0 <= citation.start < citation.end <= len(text):
        return False
    return text[citation.start : citation.end] == citation.quote


def _quote(exact: bool) -> _Judged:
    return _Judged(1, exact, lambda _: exact, lambda _: False)


def _recorded(sentence: Sentence, prediction: Prediction) -> _Judged:
    cited = len(sentence.markers)
    if (len(sentence.alone), len(sentence.without)) != (cited, cited if cited > 1 else 0):
        raise EvalError(
            f"the answer to '{prediction.example_id}' has a sentence that cites {cited} passages, with the support by"
            f" {len(sentence.alone)} of them alone and without {len(sentence.without)}; expected one each: it was"
            " recorded by another version; run the evaluation again with --force"
        )
    return _Judged(
        cited=cited,
        together=bool(cited) and sentence.label == "supported",
        alone=lambda at: sentence.alone[at] >= SUPPORTED,
        without=lambda at: sentence.without[at] >= SUPPORTED,
    )


def _by_judged_documents(prediction: Prediction, example: Example) -> dict[str, float | None]:
    """Each cited passage counts as a document; one whose text stands in several is relevant if any of them is."""
    if not example.relevant:
        return {}
    places = {hit.chunk_id: {hit.source, *(place.source for place in hit.also_in)} for hit in prediction.hits}
    cited = {each.source: places.get(each.chunk_id, set()) | {each.source} for each in prediction.citations}
    relevant = {source for source, grade in example.relevant.items() if grade > 0}
    return {
        "gold_precision": _share([bool(sources & relevant) for sources in cited.values()]),
        "gold_recall": _share([any(source in sources for sources in cited.values()) for source in sorted(relevant)]),
    }


def _gold(example: Example) -> tuple[str, ...]:
    """The measures by judged documents that apply, whatever is answered."""
    return ("gold_precision", "gold_recall") if example.relevant else ()


def _share(counted: Sequence[bool]) -> float | None:
    return sum(counted) / len(counted) if counted else None
