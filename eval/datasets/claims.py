"""Read statements with the passages they cite and what people found: does the one follow from the others.

The general form is JSONL with claim, references (texts) and supported; AttributionBench has it (Li et al., ACL 2024).
Beside it the forms of ExpertQA (Malaviya et al., NAACL 2024), QAGS (Wang et al., ACL 2020) and SciFact (Wadden et al.,
EMNLP 2020).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from eval.datasets.rows import Reading, Row
from eval.records import Claim

_SHORTEST_PAGE = 80  # characters; what is shorter names a page and holds none of its text
_LABELS = {"Complete": True, "Incomplete": False, "Missing": False}
_OTHER_LABELS = frozenset({"Partial", "N/A", ""})
_SCIFACT = {"SUPPORT": True, "CONTRADICT": False, "NOT_ENOUGH_INFO": False}
_MARKERS = re.compile(r"\s*\[\s*\d{1,3}(?:\s*(?:,|and|-|–)\s*\d{1,3})*\s*\]|\s*\[\d{1,3}\b[^\]\w]*$")
_NUMBER = re.compile(r"^\s*\[\d{1,3}\]\s*")
_ADDRESS = re.compile(r"^\S*?https?://\S+\s*")
_TITLE = re.compile(r"Title: ([^\n]{1,300})\n+")
_CUT_NUMBER = re.compile(r"(?<=\d)([.,]) (?=\d)")


def load_general(file: Path, reading: Reading) -> Iterator[Claim]:
    """claim, references, supported; id, question, kind where they are given. A claim may cite nothing."""
    for row in reading.rows(file):
        passages = _pages(row, "references")
        if not passages:
            reading.note("claims that cite no text", row)
        kind = row.text_or_none("kind" if row.has("kind") else "src")
        question = row.text_or_none("question")
        yield Claim(_id(row, reading), _plain(row, "claim"), passages, _supported(row), question, kind)


def load_expertqa(file: Path, reading: Reading) -> Iterator[Claim]:
    """Answers whose claims experts judged: complete support counts as supported, incomplete and missing as not."""
    for row in reading.rows(file):
        answer = _id(row, reading)
        for number, part in enumerate(row.rows("claims"), start=1):
            label = part.text_or_none("support")
            if label not in _LABELS and label not in _OTHER_LABELS:
                part.fail(f"{label[:20]!r} in 'support'", f"one of {', '.join(_LABELS)}, Partial, N/A")
            pages = _pages(part, "evidence", shortest=_SHORTEST_PAGE)
            if label not in _LABELS or not pages:
                reading.note("claims without a plain label, or whose evidence is no more than addresses: left out", row)
                continue
            yield Claim(f"{answer}-{number}", _plain(part, "claim"), pages, _LABELS[label], row.text("question"), label)


def load_qags(file: Path, reading: Reading) -> Iterator[Claim]:
    """Sentences of summaries and the article. Articles were cut into tokens: "3, 000 people" is put together again."""
    for row in reading.rows(file):
        article = _CUT_NUMBER.sub(r"\1", _said(row, "article"))
        yield Claim(
            _id(row, reading), _said(row, "sentence"), (article,), _supported(row), kind=row.text_or_none("src")
        )


def load_scifact(file: Path, reading: Reading) -> Iterator[Claim]:
    """Claims and an abstract, a list of sentences. What it contradicts or does not mention is not supported."""
    for row in reading.rows(file):
        label = row.text("label")
        if label not in _SCIFACT:
            row.fail(f"{label[:20]!r} in 'label'", f"one of {', '.join(_SCIFACT)}")
        sentences = [one.strip() for one in row.passages("abstract")]
        passages = (" ".join(sentences),) if sentences else ()
        yield Claim(_id(row, reading), _said(row, "claim"), passages, _SCIFACT[label], kind=label)


def _id(row: Row, reading: Reading) -> str:
    named = row.has("_id", "id")
    return reading.once(row, row.identity("_id", "id") if named else f"line-{row.number}")


def _supported(row: Row) -> bool:
    supported = row.flag("supported")
    return supported if supported is not None else row.fail("no 'supported'", "true or false there")


def _said(row: Row, name: str) -> str:
    text = row.text(name)
    return text if text.strip() else row.fail(f"no word in {name!r}", "a statement there")


def _plain(row: Row, name: str) -> str:
    """Without citation markers and emphasis."""
    return _MARKERS.sub("", _said(row, name)).replace("**", "").strip()


def _pages(row: Row, name: str, *, shortest: int = 1) -> tuple[str, ...]:
    """Passages; the marker and the address before one, and the word "Title:", are not its words.

    shortest: what has fewer characters, its title aside, is left out.
    """
    pages = []
    for reference in row.texts(name):
        text = _ADDRESS.sub("", _NUMBER.sub("", reference))
        titled = _TITLE.match(text)
        title = f"{titled[1].strip()}\n\n" if titled else ""
        body = text[titled.end() if titled else 0 :].strip()
        if len(body) >= shortest:
            pages.append(title + body)
    return tuple(pages)
