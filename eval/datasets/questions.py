"""What the line of a question says of its answer, whatever the format; and documents made of texts.

Knows the fields: answer, answers, all_answers, required, wrong, unanswerable, answerable, answerability, choices,
needs_choices, history, kind, type, hops, ambiguous. Reads no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from eval.datasets.rows import Reading, Row, distinct, shown
from eval.records import Choice, Example
from reader.records import Turn
from retrieval.records import Document

_ANSWERABILITY = {"ANSWERABLE": True, "PARTIAL": True, "UNANSWERABLE": False, "UNDERSPECIFIED": None,
                  "CONVERSATIONAL": None}  # fmt: skip
"""MTRAG's classes: a question that says too little is to be asked back, so it has an answer, but in no document."""

_SAYS_GOLD = ("answer", "answers", "all_answers", "required", "choices", "unanswerable", "answerable", "answerability")
_KINDS = ("kind", "type", "answerability", "hops")
_MARKS = ("needs_choices", "ambiguous")  # true or false; where true and nothing else is said, the name is the kind
_ASKERS = frozenset({"user", "human"})
_REPLIERS = frozenset({"agent", "assistant", "bot"})


def says_gold(row: Row) -> bool:
    """Whether the line says anything of an answer."""
    return row.has(*_SAYS_GOLD)


def example(
    row: Row,
    reading: Reading,
    *,
    example_id: str,
    question: str,
    relevant: Mapping[str, int] | None = None,
    evidence: tuple[str, ...] = (),
    answerable: bool | None = None,
) -> Example:
    """The example of a line. answerable: whether it is, where the line does not say.

    Of several groups in `required` none alone is right, so their spellings are no answers. A question that cannot be
    understood without its choices has no answers beside them. An unanswerable one keeps no answer, document or
    evidence: sets give the wording of a refusal or a near miss there.
    """
    said = _answerable(row)
    answerable = said[0] if said else answerable
    required = _required(row)
    answers = distinct((*row.texts("answer"), *row.texts("answers"), *row.texts("all_answers")))
    choices = _choices(row, answers)
    if len(required) > 1:
        answers = tuple(one for one in answers if not any(one in group for group in required))
    if row.flag("needs_choices"):
        reading.note("questions that cannot be understood without their choices are scored by the choice alone", row)
        answers, required = (), ()
    if answerable is False:
        if answers or required or relevant or evidence:
            reading.note("what unanswerable questions give as answers, documents or evidence is not used", row)
        answers, required, relevant, evidence = (), (), {}, ()
    if sum(one.correct for one in choices) > 1:
        reading.note("several choices are right; any one of them counts", row)
    return Example(
        reading.once(row, example_id),
        question,
        answers=answers,
        required=required,
        wrong=row.texts("wrong"),
        relevant=relevant,
        evidence=evidence,
        answerable=answerable,
        choices=choices,
        history=_history(row),
        kind=_kind(row),
    )


def is_blank(row: Row, reading: Reading, question: str) -> bool:
    """Whether nothing is asked; said in the notes, for such lines are left out."""
    if question.strip():
        return False
    reading.note("questions without a word are left out", row)
    return True


def made_document(name: str, source: str, title: str, text: str) -> Document:
    """A document of a dataset, `source` within the root of its name."""
    digest = hashlib.sha256(f"{title}\0{text}".encode()).hexdigest()
    return Document(f"{name}/{source}", f"/{name}", source, "text/plain", title, text, (), digest)


class Pool:
    """Passages of many questions as documents, each text once. A source is the beginning of its hash."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._documents: dict[str, Document] = {}

    def add(self, row: Row, text: str, title: str = "") -> str:
        """The source of a passage."""
        made = made_document(self._name, "", title, text)
        source = made.content_hash[:16]
        held = self._documents.setdefault(source, made_document(self._name, source, title, text))
        if held.content_hash != made.content_hash:
            row.fail(f"two passages whose hashes begin with {source}", "texts that nobody made to collide")
        return source

    def documents(self) -> tuple[Document, ...]:
        """In the order they came."""
        return tuple(self._documents.values())


def _answerable(row: Row) -> tuple[bool | None] | None:
    """What the line says in its fields; None where it says nothing."""
    said: list[bool | None] = []
    if (no := row.flag("unanswerable")) is not None:
        said.append(not no)
    if (yes := row.flag("answerable")) is not None:
        said.append(yes)
    if row.has("answerability"):
        word = row.text("answerability").strip().upper()
        if word not in _ANSWERABILITY:
            row.fail(f"{shown(word)} in 'answerability'", f"one of {', '.join(_ANSWERABILITY)}")
        said.append(_ANSWERABILITY[word])
    if {True, False} <= set(said):
        row.fail("an answerable and an unanswerable question at once", "fields that agree")
    return (None if None in said else said[0],) if said else None


def _required(row: Row) -> tuple[tuple[str, ...], ...]:
    groups = tuple(row.part({"group": group}, f"required[{at}]").texts("group")
                   for at, group in enumerate(row.items("required")))  # fmt: skip
    if not all(groups):
        row.fail("an empty group in 'required'", "a spelling at least in every group")
    return groups


def _choices(row: Row, answers: tuple[str, ...]) -> tuple[Choice, ...]:
    """Objects with text and correct; or texts, of which those are right that are answers."""
    choices = []
    for at, one in enumerate(row.items("choices")):
        if isinstance(one, str):
            choices.append(Choice(one, one.strip() in answers))
            continue
        part = row.part(one, f"choices[{at}]")
        correct = part.flag("correct")
        if correct is None:
            part.fail("no 'correct'", "true or false there")
        choices.append(Choice(part.text("text"), correct))
    if choices and not any(one.correct for one in choices):
        row.fail("no right one among 'choices'", "one at least")
    return tuple(choices)


def _history(row: Row) -> tuple[Turn, ...]:
    """Utterances by turns: [role, text] or an object with role (or speaker) and text (or content)."""
    spoken = [_utterance(row, at, one) for at, one in enumerate(row.items("history"))]
    turns = []
    for at in range(0, len(spoken), 2):
        pair = spoken[at : at + 2]
        if len(pair) < 2 or pair[0][0] not in _ASKERS or pair[1][0] not in _REPLIERS:
            roles = " and ".join(shown(role) for role, _ in pair)
            row.fail(f"{roles} from history[{at}] on", "'user' and 'agent' by turns, the last of them 'agent'")
        turns.append(Turn(pair[0][1], pair[1][1]))
    return tuple(turns)


def _utterance(row: Row, at: int, one: object) -> tuple[str, str]:
    if isinstance(one, list):
        one = {"role": one[0], "text": one[1]} if len(one) == 2 else {}
    part = row.part(one, f"history[{at}]")
    role = part.text("speaker" if part.has("speaker") else "role")
    return role.strip().lower(), part.text("content" if part.has("content") else "text")


def _kind(row: Row) -> str:
    said = next((row.text(name).strip() for name in _KINDS if row.has(name)), "")
    return (said.lower() if said in _ANSWERABILITY else said) or next(
        (name.replace("_", " ") for name in _MARKS if row.flag(name)), ""
    )
