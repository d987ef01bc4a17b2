"""Read a set of questions or claims, whatever its format: what it is follows from its content and layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.datasets import beir, cases, claims, squad, tables
from eval.datasets.questions import Pool
from eval.datasets.rows import Reading, head, present, shown
from eval.errors import EvalError
from eval.records import Claim, Dataset, Example
from retrieval.records import Document

CASES = "cases.jsonl"

UNDERSTOOD = """\
  a folder in BEIR's layout: queries.jsonl, qrels/test.tsv, and corpus.jsonl unless the documents are files
  a folder with one cases.jsonl, or the file itself: RGB, QACC, poisoned or injected documents
  SQuAD's JSON (1.1, 2.0), XQuAD, DRCD, CMRC 2018
  CSV or TSV whose first row names a column "question", or JSON lines with "question"; beside it answer, source, id, ...
  JSON lines with "claim", "references" and "supported"; ExpertQA, QAGS, SciFact"""

_CASES: Mapping[frozenset[str], Callable[[Path, Reading, Pool], Iterator[Example]]] = {
    frozenset({"query", "answers", "positive", "negative"}): cases.load_rgb,
    frozenset({"question", "contexts", "answers", "correct"}): cases.load_qacc,
    frozenset({"question", "correct", "incorrect", "poison"}): cases.load_poisoned,
    frozenset({"question", "context", "ideal", "attack"}): cases.load_injected,
}
_CLAIMS: Mapping[frozenset[str], Callable[[Path, Reading], Iterator[Claim]]] = {
    frozenset({"claim", "references", "supported"}): claims.load_general,
    frozenset({"question", "claims", "attribution"}): claims.load_expertqa,
    frozenset({"article", "sentence", "supported"}): claims.load_qags,
    frozenset({"claim", "abstract", "label"}): claims.load_scifact,
}
_REFUSED: Mapping[frozenset[str], str] = {
    frozenset(
        {"test_case_prompt", "user_input", "judge_question"}
    ): "prompts that attack a model without any document; a reader that answers from documents cannot be asked them",
    frozenset({"_id", "text"}): "a part of a BEIR folder; give the folder",
}
_SHOWN_FILES = 8


@dataclass(slots=True)
class _Content:
    examples: tuple[Example, ...] = ()
    claims: tuple[Claim, ...] = ()
    documents: tuple[Document, ...] = ()


def load_dataset(path: Path) -> Dataset:
    """The dataset in a file or folder; see UNDERSTOOD.

    Its name is that of the folder, or of the file without its ending. Documents have the root `/NAME`, and the names
    that the set gives them as their sources. Nothing is dropped in silence: see `Dataset.notes`.

    Raises EvalError, naming file and line, for what is malformed, contradicts itself or is not understood.
    """
    reading = Reading(_within(path))
    name = _name(reading.root)
    if reading.root.is_dir():
        examples, documents = beir.load(reading.root, name, reading)
        found = _Content(examples, documents=documents)
    else:
        found = _file(reading.root, name, reading)
    if not found.examples and not found.claims:
        raise EvalError(f"{path}: found no question{_but(reading)}; expected one at least")
    return Dataset(
        name,
        path,
        reading.sha256(),
        examples=found.examples,
        claims=found.claims,
        documents=found.documents,
        notes=reading.notes(),
    )


def _within(path: Path) -> Path:
    """What is to be read: a folder in BEIR's layout, or a file, which a folder may stand for."""
    if present(path) and path.is_dir() and not present(path / beir.QUERIES):
        if not present(path / CASES):
            raise _not_understood(f"a folder with {_listing(path)}", path)
        path = path / CASES
    if not present(path) or not (path.is_file() or path.is_dir()):
        raise EvalError(f"{path} is not there, or neither file nor folder; expected a dataset:\n{UNDERSTOOD}")
    return path


def _file(path: Path, name: str, reading: Reading) -> _Content:
    beginning = head(path)
    if not beginning:
        raise EvalError(f"{path} is empty, or begins with blanks only; expected a dataset:\n{UNDERSTOOD}")
    if squad.is_squad(beginning):
        examples, documents = squad.load(path, name, reading)
        return _Content(examples, documents=documents)
    if beginning.startswith("{"):
        return _lines(path, name, reading)
    if tables.delimiter_of(beginning.split("\n", 1)[0]) is None:
        first = beginning.split("\n", 1)[0]
        table = path.suffix.lower() in {".csv", ".tsv"}
        raise _not_understood(
            f"a table without a column 'question': {shown(first)}"
            if table
            else f"a text that begins with {shown(beginning)}",
            path,
        )
    return _Content(tables.load_table(path, reading))


def _lines(path: Path, name: str, reading: Reading) -> _Content:
    first = next(Reading(path).rows(path))
    keys = set(first.fields)
    for wanted, why in _REFUSED.items():
        if wanted <= keys and not tables.has_question(keys):
            raise EvalError(f"{path}: found {why}")
    for wanted, load_claims in _CLAIMS.items():
        if wanted <= keys:
            return _Content(claims=tuple(load_claims(path, reading)))
    for wanted, load_cases in _CASES.items():
        if wanted <= keys:
            pool = Pool(name)
            return _Content(tuple(load_cases(path, reading, pool)), documents=pool.documents())
    if not tables.has_question(keys):
        named = ", ".join(map(shown, sorted(keys)[:_SHOWN_FILES])) or "no field"
        raise _not_understood(f"JSON lines with {named}", first.place)
    return _Content(tables.load_lines(path, reading))


def _name(path: Path) -> str:
    """Of the folder, or of the file; in characters that can be stored."""
    whole = path.resolve()
    named = whole.parent.name if path.name == CASES else whole.stem if path.is_file() else whole.name
    return (named or "dataset").encode("utf-8", "backslashreplace").decode()


def _listing(folder: Path) -> str:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise EvalError(f"{folder}: cannot be read: {error.strerror}") from None
    more = ", ..." if len(names) > _SHOWN_FILES else ""
    return ", ".join(map(shown, names[:_SHOWN_FILES])) + more if names else "nothing in it"


def _not_understood(found: str, path: Path | str) -> EvalError:
    return EvalError(
        f"{path}: found {found}; expected one of these (a folder with several: give the file):\n{UNDERSTOOD}"
    )


def _but(reading: Reading) -> str:
    return f" ({'; '.join(reading.notes())})" if reading.notes() else ""
