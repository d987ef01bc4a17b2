"""Write question-answer pairs from passages with a language model, and keep those that checks and critics accept.

Also what both ways of making questions share: the records, which passages are fit for it, in which order they are
drawn, and the file they are written to. Knows passages, prompts and backends; nothing of indexes.
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from eval.critics import Asked, LoadPrompt, ask, grade
from eval.errors import EvalError
from prompts import Prompt
from reader.backends.base import Backend, Generation, Sampling
from reader.reader import question_language
from retrieval.sentences import sentences

CRITICS = ("groundedness", "relevance", "standalone")
KEPT_FROM = 4
"""The least score, of 5, that a pair needs from every critic."""

Span = tuple[int, int]

_WRITING = Sampling(max_tokens=200, temperature=0.0, repetition_penalty=1.0, seed=0)
_AT_ONCE = 32  # passages asked about before the next ones are drawn
_TRIES = 10  # passages for each pair wanted: a model that never writes a good one must not read the whole index
_LEAST_PROSE = 200  # characters, an ideograph as three
_QUESTION_WEIGHT = (12, 400)  # likewise
_ANSWER_WEIGHT = 300  # likewise


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk to ask about. `start`: where its text begins in its document; `heading`: outermost first."""

    text: str
    source: str
    start: int
    heading: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer, both made from `evidence`, the document's characters [start, end).

    id: follows from the other fields. kind: how it was made.
    """

    id: str
    question: str
    answer: str
    source: str
    evidence: str
    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Generated:
    """The pairs that were kept, in the order made, and why others were not: reason -> how many.

    passages: how many were looked at; those among them that are not fit to ask about are in `dropped`.
    """

    pairs: tuple[Pair, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)
    passages: int = 0


def generate(
    passages: Sequence[Passage],
    backend: Backend,
    *,
    count: int,
    seed: int,
    load_prompt: LoadPrompt,
    report: Callable[[int], None] = lambda _: None,
) -> Generated:
    """At most `count` pairs, drawn evenly over the documents; `report` is told how many there are so far.

    At most 10 passages are asked about for each pair wanted. Raises ModelError when the model itself fails.
    """
    kept: dict[str, Pair] = {}
    dropped: Counter[str] = Counter()
    drawn = islice(drawing(passages, seed=seed), _TRIES * count)
    looked_at = 0
    while len(kept) < count and (batch := list(islice(drawn, _AT_ONCE))):
        looked_at += len(batch)
        fit = [passage for passage in batch if is_fit(passage.text)]
        dropped["passage is too short, a table or code"] += len(batch) - len(fit)
        drafts = _drafts(fit, backend, load_prompt, dropped, known=kept.keys())
        good = _criticised(drafts, backend, load_prompt, dropped)
        dropped["more than asked for"] += max(0, len(good) - (count - len(kept)))
        kept |= {letters(pair.question): pair for _, pair in good[: count - len(kept)]}
        report(len(kept))
    return Generated(tuple(kept.values()), {reason: n for reason, n in dropped.items() if n}, looked_at)


# ---- which passages --------------------------------------------------------------------------------------------------


def drawing(passages: Sequence[Passage], *, seed: int) -> Iterator[Passage]:
    """Every passage once, a random one of each document in turn: a large document has no more say than a small one."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    by_source: defaultdict[str, list[int]] = defaultdict(list)
    for number, passage in enumerate(passages):
        by_source[passage.source].append(number)
    sources = sorted(by_source)
    chance.shuffle(sources)
    for source in sources:
        chance.shuffle(by_source[source])
    queues = [by_source[source] for source in sources]
    while queues:
        yield from [passages[queue.pop()] for queue in queues]
        queues = list(filter(None, queues))


_CODE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n.*?(?:^[ \t]*\1[^\n]*$|\Z)|<!--.*?(?:-->|\Z)", re.DOTALL | re.MULTILINE)
_SYMBOLS = re.compile(r"[{}\[\]<>=|\\/^~$@#&+*_;]|[-.:]{3}|--|\d")
_END = re.compile(r"[.!?。！？][\"'”’」』）)*_]*$")
_IDEOGRAPH = re.compile("[\u3400-\u9fff]")
_MOST_SYMBOLS = 0.1


def without_code(text: str) -> str:
    """The text with fenced code and comments blanked; offsets stay."""
    return _CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def prose(text: str) -> list[Span]:
    """Where the sentences stand that are whole and are words, not headings, table rows, code or figures."""
    plain = without_code(text)
    return [(start, end) for start, end in sentences(plain) if _is_prose(plain[start:end])]


def _is_prose(sentence: str) -> bool:
    if sentence[0] in "#|>" or not _END.search(sentence[-12:]):
        return False
    return len(_SYMBOLS.findall(sentence)) <= _MOST_SYMBOLS * weight(sentence)


def weight(text: str) -> int:
    """Its length in characters as an alphabet would need them: an ideograph counts three."""
    return len(text) + 2 * len(_IDEOGRAPH.findall(text))


def is_fit(text: str) -> bool:
    """Whether a passage has enough prose to ask about."""
    return sum(weight(text[start:end]) for start, end in prose(text)) >= _LEAST_PROSE


# ---- a pair ----------------------------------------------------------------------------------------------------------

_LABELS = {"question": r"question|q|问题|问", "answer": r"answer|a|答案|答"}
_LINE = {
    part: re.compile(rf"^[\s*_#>\-\d.]*(?:{label})\s*(?:\d+\s*)?[*_]*\s*[:：]\s*[*_]*\s*(.*)$", re.IGNORECASE)
    for part, label in _LABELS.items()
}
_LEANS = re.compile(
    r"\b(?:the|this|that|these|given|above|following|provided)\s+(?:\w+\s+)?"
    r"(?:passages?|texts?|excerpts?|paragraphs?|articles?|documents?|snippets?|author(?! of)|sections?|contexts?)\b"
    r"|(?:本|该|此|上|下|这|这篇|这段|这份|上述|以下)(?:文(?!化|明|学|件|字|本)|段|段落|段话|篇|章|节选|文章|文档)|文中|段落中|(?<!的)作者",
    re.IGNORECASE,
)


def _drafts(
    passages: Sequence[Passage],
    backend: Backend,
    load_prompt: LoadPrompt,
    dropped: Counter[str],
    *,
    known: Collection[str],
) -> list[tuple[Passage, Pair]]:
    """What the model writes about each passage, if it passes the checks that need no model."""
    prompts = {language: load_prompt(f"generate-{language}") for language in ("en", "zh")}
    asked: list[Asked] = [
        (prompts[question_language(without_code(one.text))], {"document": _name(one), "passage": one.text})
        for one in passages
    ]
    drafts: dict[str, tuple[Passage, Pair]] = {}
    for passage, written in zip(passages, ask(backend, asked, _WRITING), strict=True):
        if not isinstance(written, Generation):
            dropped[f"the model wrote nothing ({type(written).__name__})"] += 1
            continue
        question, answer = parse_pair(written.text)
        drafted = draft(passage, question, answer, kind="written") if written.complete else "cut at its longest"
        if isinstance(drafted, str):
            dropped[drafted] += 1
        elif letters(question) in known or letters(question) in drafts:
            dropped["question was asked before"] += 1
        else:
            drafts[letters(question)] = (passage, drafted)
    return list(drafts.values())


def _name(passage: Passage) -> str:
    """What a person would call the place a passage comes from."""
    return " > ".join(dict.fromkeys(filter(None, (passage.title or passage.source, *passage.heading))))


def parse_pair(text: str) -> tuple[str, str]:
    """The first question and the first answer behind it that a model wrote, "" for what is not there.

    Labels are understood in English and Chinese, in any dress; what a label has on the line below counts as its own.
    """
    found = {"question": "", "answer": ""}
    part = ""
    for line in text.encode(errors="replace").decode().splitlines():
        labelled = next(((name, match[1]) for name, one in _LINE.items() if (match := one.match(line))), None)
        if labelled:
            part, line = labelled  # noqa: PLW2901 - the rest of the line
        if part == "answer" and not found["question"]:
            continue
        if part and not found[part]:
            found[part] = line.strip(" \t*_`\"'“”")
    return found["question"], found["answer"]


def draft(passage: Passage, question: str, answer: str, *, kind: str) -> Pair | str:
    """The pair, its evidence the sentence of the passage that holds the answer; or what is wrong with it."""
    span = _evidence(passage.text, question, answer)
    low, high = _QUESTION_WEIGHT
    faults = {
        "no question and answer": not question or not answer,
        "question is too short or too long": not low <= weight(question) <= high,
        "answer is too long": weight(answer) > _ANSWER_WEIGHT,
        "question names the passage": _LEANS.search(question) is not None,
        "question holds its answer": bool(occurrences(question, answer)),
        "answer is not in the passage": span is None,
    }
    fault = next((fault for fault, found in faults.items() if found), None)
    if fault is not None or span is None:
        return fault or "answer is not in the passage"
    return pair(passage, question, answer, kind=kind, start=span[0], end=span[1])


def pair(passage: Passage, question: str, answer: str, *, kind: str, start: int, end: int) -> Pair:
    """A pair with an id of its own; start and end count in the passage."""
    place = f"{passage.source}\0{passage.start + start}\0{passage.start + end}\0{question}\0{answer}"
    return Pair(
        id=blake2b(place.encode(errors="replace"), digest_size=8).hexdigest(),
        question=question,
        answer=answer,
        source=passage.source,
        evidence=passage.text[start:end],
        kind=kind,
        start=passage.start + start,
        end=passage.start + end,
    )


def letters(text: str) -> str:
    """Letters and digits alone, case and width folded: what two texts share however they are set."""
    return "".join(one for one in unicodedata.normalize("NFKC", text).casefold() if one.isalnum())


def occurrences(text: str, wanted: str) -> list[Span]:
    """Where a text says something, whatever its case, width, spaces and punctuation; no part of a word or number."""
    needle = letters(wanted)
    folded, places = _folded(text)
    found: list[Span] = []
    at = folded.find(needle) if needle else -1
    while at >= 0:
        start, end = places[at], places[at + len(needle) - 1] + 1
        if not (_joined(text, start) or _joined(text, end)):
            found.append((start, end))
        at = folded.find(needle, at + len(needle))
    return found


def _folded(text: str) -> tuple[str, list[int]]:
    """Its letters, and the place in the text of each."""
    pieces = [(letters(one), place) for place, one in enumerate(text)]
    return "".join(piece for piece, _ in pieces), [place for piece, place in pieces for _ in piece]


def _joined(text: str, place: int) -> bool:
    """Whether a word or number of an alphabet goes on over a place."""
    around = text[place - 1 : place + 1] if 0 < place < len(text) else ""
    return len(around) == 2 and around.isalnum() and not _IDEOGRAPH.search(around)


def _evidence(text: str, question: str, answer: str) -> Span | None:
    """The sentences that hold the answer, of several places the one that shares most words with the question."""
    asked = set(re.findall(r"[^\W_]{2,}|[\u3400-\u9fff]", question.casefold()))
    spans = sentences(text)
    found: list[Span] = []
    for start, end in occurrences(text, answer):
        touched = [span for span in spans if span[0] < end and start < span[1]]
        found.append((touched[0][0], touched[-1][1]))
    return max(found, key=lambda span: sum(word in text[slice(*span)].casefold() for word in asked), default=None)


# ---- critics ---------------------------------------------------------------------------------------------------------


def _criticised(
    drafts: Sequence[tuple[Passage, Pair]], backend: Backend, load_prompt: LoadPrompt, dropped: Counter[str]
) -> list[tuple[Passage, Pair]]:
    """Those that every critic gives 4 or more. A critic is asked only about what those before it let through."""
    drafts = list(drafts)
    for critic in CRITICS:
        prompts = {language: load_prompt(f"critique-{critic}-{language}") for language in ("en", "zh")}
        verdicts = grade(backend, [_critique(prompts, *one) for one in drafts])
        for verdict in verdicts:
            if verdict.score is None:
                dropped[f"{critic}: unreadable verdict"] += 1
            elif verdict.score < KEPT_FROM:
                dropped[f"{critic}: below {KEPT_FROM}"] += 1
        drafts = [one for one, verdict in zip(drafts, verdicts, strict=True) if (verdict.score or 0) >= KEPT_FROM]
    return drafts


def _critique(prompts: Mapping[str, Prompt], passage: Passage, pair: Pair) -> Asked:
    """A critic's prompt with those of the texts that it asks for."""
    prompt = prompts[question_language(pair.question)]
    texts = {
        "passage": passage.text,
        "document": _name(passage),
        "question": pair.question,
        "answer": pair.answer,
    }
    return prompt, {name: texts[name] for name in prompt.variables & texts.keys()}


# ---- the file --------------------------------------------------------------------------------------------------------


def write_pairs(path: Path, pairs: Iterable[Pair], *, force: bool) -> None:
    """Write a JSON object a line, all of the file or nothing. Raises EvalError on an existing file without `force`."""
    if path.exists() and not force:
        raise EvalError(f"{path} exists; name another file, or add --force to replace it")
    lines = "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    draft_path = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            draft_path = file.name
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
        Path(draft_path).replace(path)
    except OSError as error:
        raise EvalError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if draft_path:
            Path(draft_path).unlink(missing_ok=True)
