"""Whatever a model writes, citations are valid and exact: answers of known kinds, good and bad, over all open sets."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from app.pipeline import Pipeline
from bench.data import data_folder, rows
from bench.sets import FILES, opened, question_set
from bench.table import Table
from prompts import load_prompt
from reader.backends.base import Sampling
from reader.backends.extractive import ExtractiveReader
from reader.backends.scripted import ScriptedBackend
from reader.generative import GenerativeReader
from reader.records import Answer
from retrieval.records import Document
from retrieval.retriever import Retrieved
from retrieval.sentences import sentences

SETS = (
    "squad1_dev", "squad2_dev_big", "scifact", "cranfield", "hotpot100", "musique100", "multihoprag_facts",
    "clapnq_dev", "mtrag_un", "hf_quiz_en", "hf_quiz_zh", "xquad_en", "xquad_zh", "cmrc2018_dev", "drcd_dev", "rgb_zh",
    "rgb_en_fact", FILES,
)  # fmt: skip
_QUESTIONS = 30
_SEED = 7
_FORMS = (" [{n}].", " (Document {n}).", "[{n}]。", ". Source: {n}", " [{n}][{n}].", " [^{n}].", " 【{n}】.")


@dataclass
class _Tally:
    """What happened to the answers of one kind."""

    answers: int = 0
    withdrawn: int = 0
    citations: int = 0
    wrong: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def count(self, answer: Answer, look_up: Callable[[str], Document]) -> None:
        self.answers += 1
        self.withdrawn += answer.abstained
        self.citations += len(answer.citations)
        self.wrong += sum(not _is_exact(answer, number, look_up) for number in range(len(answer.citations)))
        self.wrong += sum(
            not set(sentence.markers) <= {citation.marker for citation in answer.citations}
            for sentence in answer.sentences
        )
        self.labels.update(sentence.label for sentence in answer.sentences[:1])

    def row(self, name: str) -> tuple[str, ...]:
        sentences_seen = max(1, self.labels.total())
        shares = (
            f"{self.labels[label] / sentences_seen:.2f}"
            for label in ("supported", "unsupported", "contradicted-number", "uncited")
        )
        return name, str(self.answers), f"{self.withdrawn:,}", f"{self.citations:,}", str(self.wrong), *shares


def run(*, limit: int | None = None) -> Table:
    """Citations of the extractive reader and of scripted answers: how many, how many not exact, and the labels."""
    tallies: dict[str, _Tally] = {name: _Tally() for name in ("extractive", *_KINDS, "recorded answers")}
    chance = random.Random(_SEED)  # noqa: S311 - chooses examples
    recorded = [str(row["answer"]) for row in rows(data_folder("eval", "expertqa") / "cases.jsonl")]
    for name in SETS:
        asked = question_set(name)
        questions = asked.questions[:: max(1, len(asked.questions) // (limit or _QUESTIONS))][: limit or _QUESTIONS]
        with opened(asked) as pipeline:
            for one in questions:
                found = pipeline.parts.retriever.search(one.text, k=5)
                if found.hits:
                    _read(pipeline, found, tallies, recorded, chance)
    return Table(
        "Citations, whatever is written",
        ("answer", "answers", "withdrawn", "citations", "not exact", "supported", "unsupported", "number", "uncited"),
        [tally.row(name) for name, tally in tallies.items()],
        f"{len(SETS)} open sets, {_QUESTIONS} questions each; the scripted answers are made from the passages that the"
        " question found, never abstaining beforehand. Not exact: citations that are not the very characters of the"
        " document, or of a passage that was not shown, and markers without a citation. The last four columns are the"
        " labels of the first sentence. Recorded answers: those of language models in expertqa, to other questions.",
    )


def _read(
    pipeline: Pipeline, found: Retrieved, tallies: dict[str, _Tally], recorded: list[str], chance: random.Random
) -> None:
    store, interaction = pipeline.parts.store, pipeline.parts.retriever.interaction

    def look_up(doc_id: str) -> Document:
        document = store.document(doc_id)
        assert document is not None
        return document

    extractive = ExtractiveReader(interaction, look_up, min_evidence=0)
    tallies["extractive"].count(extractive.read(found), look_up)
    written = {name: make(found, chance) for name, make in _KINDS.items()}
    for name, text in {**written, "recorded answers": chance.choice(recorded)}.items():
        if text is None:
            continue
        reader = GenerativeReader(
            ScriptedBackend([text], window=100_000),
            interaction,
            look_up,
            prompt=lambda language: load_prompt(f"answer-{language}"),
            sampling=Sampling(max_tokens=5_000),
            min_evidence=0,
        )
        tallies[name].count(reader.read(found), look_up)


def _is_exact(answer: Answer, number: int, look_up: Callable[[str], Document]) -> bool:
    citation = answer.citations[number]
    hit = next((hit for hit in answer.hits if hit.chunk_id == citation.chunk_id), None)
    return (
        hit is not None
        and (answer.written is None or hit.rank == citation.marker)
        and hit.start <= citation.start < citation.end <= hit.end
        and look_up(citation.doc_id).text[citation.start : citation.end] == citation.quote
    )


# ---- answers of known kinds ------------------------------------------------------------------------------------------


def _sentence(found: Retrieved, chance: random.Random, position: int = 0) -> str | None:
    """A sentence of a passage that says something."""
    text = found.hits[position].text
    good = [text[a:b] for a, b in sentences(text) if 40 <= b - a <= 400 and "\n" not in text[a:b]]
    return chance.choice(good).rstrip(".。 ") if good else None


def _verbatim(found: Retrieved, chance: random.Random) -> str | None:
    sentence = _sentence(found, chance)
    return sentence and sentence + chance.choice(_FORMS).format(n=1)


def _unmarked(found: Retrieved, chance: random.Random) -> str | None:
    sentence = _sentence(found, chance)
    return sentence and f"{sentence}."


def _wrong_number(found: Retrieved, chance: random.Random) -> str | None:
    """A sentence one of whose numbers is another."""
    text = found.hits[0].text
    good = [text[a:b] for a, b in sentences(text) if 40 <= b - a <= 400 and re.search(r"\d", text[a:b])]
    if not good:
        return None
    sentence = chance.choice(good).replace("\n", " ").rstrip(".。 ")
    number = chance.choice(list(re.finditer(r"\d+", sentence)))
    other = str(int(number[0]) + chance.choice((1, 3, 10, 117)))
    return f"{sentence[: number.start()]}{other}{sentence[number.end() :]} [1]."


def _wrong_passage(found: Retrieved, chance: random.Random) -> str | None:
    """A sentence of the first passage, said to be in the last."""
    last = len(found.hits)
    sentence = _sentence(found, chance)
    same = last < 2 or sentence is None or sentence in found.hits[-1].text
    return None if same else f"{sentence} [{last}]."


def _never_shown(found: Retrieved, chance: random.Random) -> str | None:
    sentence = _sentence(found, chance)
    return sentence and f"{sentence} [{chance.randint(len(found.hits) + 1, 99)}]."


def _negated(found: Retrieved, chance: random.Random) -> str | None:
    """A sentence that denies what the passage says."""
    sentence = _sentence(found, chance)
    for said, denied in ((" is ", " is not "), (" was ", " was not "), (" can ", " cannot "), ("是", "不是")):
        if sentence and said in sentence:
            return f"{sentence.replace(said, denied, 1)} [1]."
    return None


def _elsewhere(_found: Retrieved, chance: random.Random) -> str | None:
    """What no passage says."""
    return chance.choice(
        (
            "The treaty of Utrecht was signed by delegates of nine powers after the siege of Barcelona [1].",
            "Quantum chromodynamics describes how gluons bind quarks into hadrons [2].",
            "企鹅每年冬天都会在南极的冰面上孵蛋，由雄企鹅负责 [1]。",
            "To bake sourdough, feed the starter twice a day and keep it near the oven [1].",
        )
    )


_KINDS: dict[str, Callable[[Retrieved, random.Random], str | None]] = {
    "verbatim, marked in seven ways": _verbatim,
    "verbatim, unmarked": _unmarked,
    "verbatim, marked with a number never shown": _never_shown,
    "verbatim, of another passage": _wrong_passage,
    "a number changed": _wrong_number,
    "denied": _negated,
    "of something else": _elsewhere,
}
