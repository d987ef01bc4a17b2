"""From found files to documents, leaving out what the index has already; and what is gone, failed or superseded.

Knows files, parsers and what an index says of them; nothing of chunks or vectors.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from ingest.discover import Discovery, FoundFile, read_file
from ingest.indexer import Settings, Tally
from ingest.isolate import ParsingPool, Result
from ingest.parse import Parsed
from ingest.records import Place, Progress, Report
from retrieval.errors import ParseError
from retrieval.records import Document, Failure
from retrieval.store import Store

REST = "(the rest)"  # stands for what is missing of a file of several documents
_SAMPLED_CHARS = 1_000_000  # of one document are enough of a sample, and far more than a codec is fitted on
_LAST_SECOND = 253_402_300_799  # of the year 9999: a file's time can be anything

T = TypeVar("T")


class Files:
    """Turns found files into documents, leaving out those whose bytes are in the index already.

    A file may hold several documents (an archive, a mail with attachments): those inside have a source below its own.
    """

    def __init__(
        self,
        discovery: Discovery,
        store: Store,
        settings: Settings,
        tally: Tally,
        report: Report,
        *,
        pool: ParsingPool,
        rebuild: bool,
    ) -> None:
        self._files, self.roots, self._store = discovery.files, discovery.roots, store
        self._settings, self._tally, self._report, self._pool = settings, tally, report, pool
        self._rebuild = rebuild
        found = {(one.root, one.source) for one in discovery.files}
        found |= {(one.root, one.source) for one in discovery.failures}
        self._stored = {root: store.hashes(root) for root in {*discovery.roots, *(root for root, _ in found)}}
        stored = ((root, source) for root, sources in self._stored.items() for source in sources)
        self._parts = _by_file(found, ((place, place) for place in stored))
        failed = (((one.root, one.source), one) for one in store.failures())
        self._failed_parts = _by_file(found, ((place, one) for place, one in failed if place not in found))
        self._read_ones: dict[Place, str] = {}  # (root, source) -> doc_id of what was read this time
        self._failed_places: set[Place] = set()
        self._failures_seen = 0
        self._done_bytes = self._waiting_bytes = 0.0
        self._total_bytes = sum(found.size for found in self._files)
        tally.failures = [self._with_kept(failure) for failure in tally.failures]

    def changed(self) -> Iterator[Document]:
        """Documents of files that are new or have other bytes than last time, in order of discovery."""
        for (found, content_hash), results in self._pool.parse_files(self._unread()):
            documents = self._documents(found, content_hash, results)
            if self._are_stored(documents):  # as far as a file could be read that is tried again every time
                self._tally.unchanged += len(documents)
                documents = []
            self._done_bytes += found.size if not documents else 0
            self.encoding(0.0)
            for document in documents:
                self._waiting_bytes += found.size / len(documents)
                yield document
        self.encoding(0.0)

    def kept(self, *, prune: bool) -> Iterator[Document]:
        """For a rebuild: documents in the index that no file gives any more, as they are stored."""
        failed = self._failed()
        left_out = {doc_id for place, doc_id in self._read_ones.items() if place not in failed}
        left_out |= {*self.superseded(), *(doc_id for _, _, doc_id in self.gone() if prune)}
        for row in self._store.documents():
            if row.doc_id not in left_out and (document := self._store.document(row.doc_id)):
                yield document

    def sample(self) -> Iterator[Document]:
        """Documents from all over the files, huge ones cut, in an order that stays when their folder is moved."""
        for (found, _), results in self._pool.parse_files(self._scattered()):
            for name, result in results:
                if isinstance(result, Parsed):  # what fails is reported when its turn comes
                    yield _document(found, _inside(found, name), _beginning(result))

    def encoding(self, share: float) -> None:
        """Report progress: what waits to be encoded has been, by a share in [0, 1]."""
        done = self._done_bytes + share * self._waiting_bytes
        self._report(Progress("reading and encoding", round(done) // 1000, self._total_bytes // 1000, "kB"))

    def indexed(self, documents: Iterable[Document]) -> None:
        """Take note of what was staged."""
        failed = self._failed()
        for document in documents:
            place = document.root, document.source
            if place in self._read_ones and place not in failed:
                known = document.source in self._stored[document.root]
                (self._tally.changed if known else self._tally.added).append(document.source)
        self._done_bytes += self._waiting_bytes
        self._waiting_bytes = 0
        self.encoding(0.0)

    def gone(self) -> list[tuple[str, str, str]]:
        """(root, source, doc_id) of documents in the index whose files are no longer among those of their root.

        What could not be read, and what lies in a folder that could not, is not called gone.
        """
        there = {(found.root, found.source) for found in self._files} | self._failed()
        return [
            (root, source, doc_id)
            for root in self.roots
            for source, (doc_id, _) in sorted(self._stored[root].items())
            if (root, source) not in there and not any((root, above) in there for above in _with_parents(source))
        ]

    def superseded(self) -> list[str]:
        """Documents that files no longer hold, or that this run has read under another root: each is there once."""
        if self._tally.interrupted:
            return []
        roots = set(self._store.document_roots())
        others = {root: roots - {root} for root in self._stored}
        return [self._stored[root][source][0] for root, source in self._tally.outdated] + [
            doc_id
            for root, source in sorted(self._read_ones.keys() - self._failed() if any(others.values()) else ())
            for other, its_source in _places(f"{root}/{source}")
            if other in others[root]
            for doc_id, _ in self._store.hashes(other, its_source).values()
        ]

    def failures(self) -> tuple[set[Failure], set[Failure]]:
        """What the index says now of the failures among what this run looked at, and what it is to say."""
        places = self.places()
        before = {
            failure
            for failure in self._store.failures()
            if failure.root in self.roots or (failure.root, failure.source) in places
        }
        after = set(self._tally.failures)
        if self._tally.interrupted:
            after |= {failure for failure in before if (failure.root, failure.source) not in places}
        return before, after

    def places(self) -> set[Place]:
        """(root, source) of all that this run has met, its roots as entries of their folders included."""
        read = self._read_ones.keys()
        parts = ((one.root, one.source) for file in read for one in self._failed_parts[file])
        return {*read, *parts, *self._failed(), *(_split(root) for root in self.roots)}

    def _failed(self) -> set[Place]:
        """Where something failed so far; asked for after every batch, so only new failures are looked at."""
        new = self._tally.failures[self._failures_seen :]
        self._failures_seen += len(new)
        self._failed_places.update((failure.root, failure.source) for failure in new)
        return self._failed_places

    def _unread(self) -> Iterator[tuple[tuple[FoundFile, str], str, bytes]]:
        """Files to parse, with their content hash, name and bytes."""
        for found in self._files:
            self.encoding(0.0)
            try:
                data = read_file(found, self._settings.max_file_bytes)
            except ParseError as error:
                self._note_read([(found.root, found.source)])
                self._fail(found.root, found.source, error)
                self._done_bytes += found.size
                continue
            content_hash = hashlib.sha256(data).hexdigest()
            if self._is_known(found, content_hash) and not self._rebuild:
                self._leave(found)
            else:
                yield (found, content_hash), found.path.name, data

    def _scattered(self) -> Iterator[tuple[tuple[FoundFile, str], str, bytes]]:
        for found in sorted(self._files, key=lambda one: (document_id("", one.source), one.root)):
            with suppress(ParseError):
                data = read_file(found, self._settings.max_file_bytes)
                yield (found, ""), found.path.name, data

    def _is_known(self, found: FoundFile, content_hash: str) -> bool:
        """Whether a run has taken the file with these very bytes to its end."""
        failed = {one.source for one in self._failed_parts[found.root, found.source]}  # if stored, an earlier version
        parts = [source for _, source in self._parts[found.root, found.source] if source not in failed]
        hashes = {self._stored[found.root][source][1] for source in parts}
        return content_hash in hashes and _inside(found, REST) not in failed

    def _leave(self, found: FoundFile) -> None:
        """Take note that the index has a file already."""
        parts = self._parts[found.root, found.source]
        self._note_read({(found.root, found.source), *parts})
        self._tally.unchanged += len(parts)
        self._tally.failures += self._failed_parts[found.root, found.source]
        self._done_bytes += found.size

    def _documents(self, found: FoundFile, content_hash: str, results: Sequence[Result]) -> list[Document]:
        """What a file holds; what could not be read of it becomes failures.

        Of several documents only the last has the content hash, and none when some are missing: until a run has come to
        the end of the file, the next one reads it again.
        """
        *before, (name, end) = results
        is_whole = name != "" or isinstance(end, Parsed)
        if before and not is_whole:
            results = [*before, (REST, end)]
        places = [(found.root, _inside(found, name)) for name, _ in results]
        self._note_read([(found.root, found.source), *places])
        documents = []
        for (root, source), (_, result) in zip(places, results, strict=True):
            if isinstance(result, Parsed):
                documents.append(_document(found, source, result))
            else:
                self._fail(root, source, result)
        if is_whole and documents:
            documents[-1] = replace(documents[-1], content_hash=content_hash)
            parts = self._parts[found.root, found.source]
            self._tally.outdated += sorted({*parts}.difference(places))
        return documents

    def _are_stored(self, documents: Sequence[Document]) -> bool:
        return not self._rebuild and all(
            one.source in self._stored[one.root] and self._store.document(one.doc_id) == one for one in documents
        )

    def _note_read(self, places: Iterable[Place]) -> None:
        self._read_ones.update({place: document_id(*place) for place in places})

    def _fail(self, root: str, source: str, error: ParseError) -> None:
        self._tally.failures.append(self._with_kept(Failure(root, source, error.reason, error.advice)))

    def _with_kept(self, failure: Failure) -> Failure:
        """Say what becomes of the earlier version of a file, or of the documents of a root, that cannot be read."""
        stored = self._stored.get(failure.root, {})
        parts = self._parts[failure.root, failure.source]
        if failure.source in stored:
            return replace(failure, reason=f"{failure.reason} (the version ingested before is kept)")
        if parts or (failure.source == "." and stored):
            count = len(parts or stored)
            return replace(failure, reason=f"{failure.reason} (documents ingested before are kept: {count:,})")
        return failure


def document_id(root: str, source: str) -> str:
    """The id of a file, the same as long as it stays where it is."""
    return hashlib.blake2b(f"{root}\0{source}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _by_file(files: set[Place], below: Iterable[tuple[Place, T]]) -> defaultdict[Place, list[T]]:
    """Group by the file that a place is, or is inside of; what belongs to none of the files is left out."""
    found: defaultdict[Place, list[T]] = defaultdict(list)
    for (root, source), value in below:
        for above in _with_parents(source)[1:]:
            if (root, above) in files:
                found[root, above].append(value)
    return found


def _inside(found: FoundFile, name: str) -> str:
    """The source of a document in a file; the file itself has no name in it."""
    return f"{found.source}/{name}" if name else found.source


def _beginning(parsed: Parsed) -> Parsed:
    """As much of a parsed document as a sample needs."""
    if len(parsed.text) <= _SAMPLED_CHARS:
        return parsed
    spans = tuple(span for span in parsed.spans if span.end <= _SAMPLED_CHARS)
    return replace(parsed, text=parsed.text[:_SAMPLED_CHARS], spans=spans)


def _split(path: str) -> tuple[str, str]:
    """The folder that holds a folder, and its name there."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name


def _places(path: str) -> Iterator[tuple[str, str]]:
    """Every (root, source) that an absolute path can be in an index under."""
    parts = path.replace("//", "/", 1).split("/")
    return (("/".join(parts[:depth]) or "/", "/".join(parts[depth:])) for depth in range(1, len(parts)))


def _with_parents(source: str) -> list[str]:
    """A source and the folders above it, the root itself (".") included."""
    parts = source.split("/")
    return [".", *("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))]


def _document(found: FoundFile, source: str, parsed: Parsed) -> Document:
    modified = datetime.fromtimestamp(min(max(found.modified, 0), _LAST_SECOND), UTC).isoformat(timespec="seconds")
    return Document(
        doc_id=document_id(found.root, source),
        root=found.root,
        source=source,
        media_type=parsed.media_type,
        title=parsed.title,
        text=parsed.text,
        spans=parsed.spans,
        metadata={"modified": modified, **parsed.metadata},
    )
