"""What a question's gold is in one index: its documents by their names there, its passages by chunk. Knows the store.

A dataset names documents its own way; an index by their paths below the folder that was ingested. A name stands for a
document whose path it is, or else for the only one whose path, its folder's included, ends with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from eval.errors import EvalError
from eval.records import Example
from retrieval.store import Store

_DOCUMENTS_KEPT = 512


@dataclass(frozen=True, slots=True)
class Gold:
    """A question's gold as one index has it.

    example: its relevant sources are those of the index; those that the index has not keep the dataset's name and are
    in `missing`. passages: chunk_ids of the indexed passages that hold an answer or its evidence.
    """

    example: Example
    passages: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class GoldFinder:
    """Looks gold up in an index."""

    def __init__(self, store: Store, examples: Sequence[Example], holds: Callable[[str, str], bool]) -> None:
        """holds: whether a text holds an answer, as a person would read it. Raises EvalError on an ambiguous name."""
        self._holds = holds
        self._chunks = lru_cache(maxsize=_DOCUMENTS_KEPT)(store.chunks_of)
        self._documents = _resolved(store, {source for one in examples for source in one.relevant or ()})

    @property
    def names(self) -> dict[str, str]:
        """Source in the index -> the dataset's name of it."""
        return {source: name for name, documents in self._documents.items() for _, source in documents}

    def missing(self, example: Example) -> tuple[str, ...]:
        """Relevant sources that the index has not."""
        return tuple(name for name in example.relevant or () if not self._documents.get(name))

    def find(self, example: Example) -> Gold:
        """The gold of one question."""
        if example.relevant is None:
            return Gold(example)
        found = {name: self._documents.get(name, ()) for name in example.relevant}
        relevant = {
            source: grade
            for name, grade in example.relevant.items()
            for source in ({source for _, source in found[name]} or {name})
        }
        texts = example.evidence or (*example.answers, *(one for group in example.required for one in group))
        passages = [
            stored.chunk.chunk_id
            for documents in found.values()
            for doc_id, _ in documents
            for stored in self._chunks(doc_id)
            if any(self._bears(stored.chunk.text, text, is_evidence=bool(example.evidence)) for text in texts)
        ]
        return Gold(replace(example, relevant=relevant), tuple(dict.fromkeys(passages)), self.missing(example))

    def _bears(self, passage: str, text: str, *, is_evidence: bool) -> bool:
        if not is_evidence:
            return self._holds(passage, text)
        flat, sought = _flat(passage), _flat(text)
        return bool(sought) and (sought in flat or (len(flat) >= len(sought) / 2 and flat in sought))


def _resolved(store: Store, wanted: set[str]) -> dict[str, list[tuple[str, str]]]:
    """Wanted name -> (doc_id, source) of the documents it stands for."""
    exact: dict[str, list[tuple[str, str]]] = defaultdict(list)
    ends: dict[str, list[tuple[str, str]]] = defaultdict(list)
    last = {name.rsplit("/", 1)[-1] for name in wanted}
    for row in store.documents():
        if row.source in wanted:
            exact[row.source].append((row.doc_id, row.source))
        if row.source.rsplit("/", 1)[-1] in last:
            parts = f"{row.root}/{row.source}".split("/")
            for at in range(len(parts)):
                if (name := "/".join(parts[at:])) in wanted:
                    ends[name].append((row.doc_id, row.source))
    several = {name: found for name, found in ends.items() if len(found) > 1 and name not in exact}
    for name, found in several.items():
        places = ", ".join(sorted(source for _, source in found)[:3])
        raise EvalError(f"the source {name!r} of a question may be {places}, or more; write more of its path")
    return {name: exact.get(name) or ends[name] for name in {*exact, *ends}}


def _flat(text: str) -> str:
    """Without white space, which differs between a quotation and its source."""
    return "".join(text.split())
