"""Read a BEIR folder: corpus.jsonl (which may be missing), queries.jsonl and one qrels/*.tsv.

The layout is that of Thakur et al., "BEIR" (NeurIPS Datasets and Benchmarks 2021): {_id, title, text}, {_id, text} and
lines of query id, document id and grade with tabs between them. Beside it lie, where a set has them, the questions of
other corpora: queries_outofcorpus.jsonl.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from eval.datasets import questions
from eval.datasets.rows import Reading, Row, present, shown
from eval.errors import EvalError
from eval.records import Example
from retrieval.records import Document

QUERIES = "queries.jsonl"
MAX_GRADE = 1_000
"""trec_eval allocates a table as long as the highest grade."""

_CORPUS = "corpus.jsonl"
_ELSEWHERE = "queries_outofcorpus.jsonl"
_EVIDENCE = ("evidence", "selected_sentences", "supporting_facts")
_GRADE = re.compile(r"[+-]?\d{1,9}(?:\.0*)?", re.ASCII)
_HEADER = frozenset({"query-id", "query_id", "queryid", "qid", "query"})
_ON_GITHUB = re.compile(r"(?:https://github\.com/)?([^/\s]+/[^/\s]+)/blob/[^/\s]+/(\S.*)")
_DOCUMENTS_KEPT = 16


def load(folder: Path, name: str, reading: Reading) -> tuple[tuple[Example, ...], tuple[Document, ...]]:
    """The questions and the documents.

    A question that is not in the qrels and of whose answer its line says nothing belongs to another split: BEIR keeps
    the questions of all in one file. Without a corpus, the names in the qrels are those of files, see `file_name`.
    """
    documents = _corpus(folder / _CORPUS, name, reading) if present(folder / _CORPUS) else None
    rows = list(reading.rows(folder / QUERIES))
    asked = {reading.once(row, row.identity("_id")) for row in rows}
    qrels = _qrels_file(folder, reading)
    judged = _judgements(qrels, reading, asked=asked, documents=documents)
    found = [one for row in rows if (one := _example(row, reading, judged, documents)) is not None]
    if present(folder / _ELSEWHERE):
        found += _elsewhere(folder / _ELSEWHERE, reading)
    return tuple(found), tuple((documents or {}).values())


def file_name(document_id: str) -> str:
    """The path of a file within an ingested folder: ORG/REPO/PATH of GitHub's ORG/REPO/blob/BRANCH/PATH.

    With https://github.com/ before it or not; a branch has no slash. Anything else is the path itself.
    """
    match = _ON_GITHUB.fullmatch(document_id)
    return f"{match[1]}/{match[2]}" if match else document_id


def _corpus(file: Path, name: str, reading: Reading) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    lines: dict[str, int] = {}
    for row in reading.rows(file):
        source, text = row.identity("_id"), row.text("text")
        if source in lines:
            row.fail(f"the id {shown(source)} again, which line {lines[source]} has", "an id of its own for every line")
        lines[source] = row.number
        documents[source] = questions.made_document(name, source, row.text_or_none("title"), text)
        if not text.strip():
            reading.note("documents without a word", row)
    return documents


def _qrels_file(folder: Path, reading: Reading) -> Path:
    """qrels/test.tsv, or the only split there is."""
    splits = sorted((folder / "qrels").glob("*.tsv"))
    test = folder / "qrels" / "test.tsv"
    if test not in splits and len(splits) != 1:
        names = ", ".join(one.name for one in splits) or "nothing"
        raise EvalError(
            f"{folder / 'qrels'}: found {names}; expected test.tsv, or one *.tsv: put there which document answers "
            "which question, or give the questions as JSONL with question and answer"
        )
    chosen = test if test in splits else splits[0]
    if others := [one.name for one in splits if one != chosen]:
        reading.note(f"{chosen.name} is read, {', '.join(others)} not")
    return chosen


@dataclass(frozen=True, slots=True)
class _Line:
    query: str
    document: str
    grade: int
    place: str


def _judgements(
    file: Path, reading: Reading, *, asked: set[str], documents: Mapping[str, Document] | None
) -> dict[str, dict[str, int]]:
    """Question -> source -> grade of 1 or more; a question that only has lesser grades is there, with none."""
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for line in _qrels(file, reading):
        if line.query not in asked:
            raise EvalError(f"{line.place}: there is no question {shown(line.query)} in {QUERIES}; correct or add it")
        if documents is not None and line.document not in documents:
            raise EvalError(
                f"{line.place}: there is no document {shown(line.document)} in {_CORPUS}; correct or add it"
            )
        source = line.document if documents is not None else file_name(line.document)
        if grades[line.query].setdefault(source, line.grade) != line.grade:
            raise EvalError(
                f"{line.place}: found grade {line.grade} for question {shown(line.query)} and document "
                f"{shown(source)}, which has {grades[line.query][source]} above; expected one: remove the other"
            )
    return {query: {source: grade for source, grade in graded.items() if grade > 0} for query, graded in grades.items()}


def _qrels(file: Path, reading: Reading) -> Iterator[_Line]:
    first = True
    for number, line in reading.lines(file):
        cells = line.rstrip("\r\n").split("\t")
        if not line.strip():
            continue
        header, first = first and cells[0].strip().lower() in _HEADER and not _GRADE.fullmatch(cells[-1].strip()), False
        if header:
            continue
        place = f"{file}, line {number}"
        filled = sum(1 for cell in cells if cell.strip())
        if not len(cells) == filled == 3:
            raise EvalError(
                f"{place}: found {len(cells)} columns, {filled} of them filled; expected 3 with tabs between them: "
                "query id, document id, grade"
            )
        if not _GRADE.fullmatch(cells[2].strip()) or int(float(cells[2])) > MAX_GRADE:
            raise EvalError(f"{place}: found grade {shown(cells[2])}; expected a whole number up to {MAX_GRADE}")
        yield _Line(cells[0], cells[1], int(float(cells[2])), place)


def _example(
    row: Row, reading: Reading, judged: Mapping[str, Mapping[str, int]], documents: Mapping[str, Document] | None
) -> Example | None:
    example_id, question = row.identity("_id"), row.text("text")
    relevant = judged.get(example_id)
    if questions.is_blank(row, reading, question):
        return None
    if judged and relevant is None and not questions.says_gold(row):
        reading.note("questions that are not in the qrels and have no answer belong to another split: left out", row)
        return None
    return questions.example(
        row,
        reading,
        example_id=example_id,
        question=question,
        relevant=relevant,
        evidence=_evidence(row, reading, relevant or {}, documents),
        answerable=True if relevant else None,
    )


def _elsewhere(file: Path, reading: Reading) -> Iterator[Example]:
    for row in reading.rows(file):
        example_id, question = row.identity("_id"), row.text("text")
        if not questions.is_blank(row, reading, question):
            yield Example(reading.once(row, example_id), question, relevant={}, answerable=False, kind="elsewhere")


def _evidence(
    row: Row, reading: Reading, relevant: Mapping[str, int], documents: Mapping[str, Document] | None
) -> tuple[str, ...]:
    """What the line quotes of its relevant documents, as it stands there. Without documents, as it is given."""
    found = []
    for quote in _quotes(row, reading):
        stands = [quote] if documents is None else [_stretch(documents[source].text, quote) for source in relevant]
        if not any(stands):
            reading.note("evidence that is not in its documents word for word is left out", row)
        found += [text for text in stands if text]
    return tuple(dict.fromkeys(found))


def _quotes(row: Row, reading: Reading) -> Iterator[str]:
    """Texts, or lists of texts; a title with the number of a sentence quotes nothing."""
    for name in _EVIDENCE:
        value = row.fields.get(name)
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            texts = one if isinstance(one, list) else [one]
            if all(isinstance(text, str) for text in texts):
                yield from row.part({name: texts}, name).texts(name)
            else:
                reading.note(f"{name} that names sentences by number is not read", row)


def _stretch(text: str, quote: str) -> str:
    """The first stretch of a text that is the quote but for white space; "" where there is none."""
    places, flat = _flat(text)
    sought = "".join(quote.split())
    at = flat.find(sought)
    return text[places[at] : places[at + len(sought) - 1] + 1] if sought and at >= 0 else ""


@lru_cache(maxsize=_DOCUMENTS_KEPT)
def _flat(text: str) -> tuple[array[int], str]:
    """Where the characters that are no white space stand, and what they read."""
    places = array("Q", (at for at, character in enumerate(text) if not character.isspace()))
    return places, "".join(text[at] for at in places)
