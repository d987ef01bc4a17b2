"""The ingest loop: find files, parse, chunk, encode what is new, store, publish. Knows every room it passes through.

A file is skipped when its bytes are those of last time. Files are parsed in other processes while texts are encoded in
this one. What is encoded is committed every few texts, so that a killed run loses no more than those; what readers see
changes once, at the end.
"""

from __future__ import annotations

import hashlib
import re
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from ingest.chunk import Chunker
from ingest.discover import Discovery, FoundFile, discover, read_file
from ingest.isolate import Limits, ParsingPool, Result
from ingest.parse import Parsed
from ingest.records import IngestReport, Progress, Report
from retrieval.analyze import Analyzer
from retrieval.dense import is_usable
from retrieval.encoder import Encoded, Encoder, clean, passage_input
from retrieval.errors import IndexMismatchError, ParseError
from retrieval.evidence import CALIBRATED
from retrieval.interaction import SignCodec
from retrieval.lexical import is_current
from retrieval.maintain import beside
from retrieval.records import Chunk, ChunkingSpec, Document, EncoderSpec, Failure, IndexManifest
from retrieval.retriever import EVIDENCE_BLOB, STATISTICS_BLOB, codec_blob
from retrieval.statistics import Statistics
from retrieval.store import Store, Writer, embedding_key
from retrieval.threads import one_blas_thread
from retrieval.versions import switch

_BATCH_TEXTS = 256
_COMMIT_TEXTS = 64
_SAMPLE_TOKENS = 40_000  # of the corpus, to fit the token codec on
_ENOUGH_TOKENS = 5_000  # a codec is never fitted on less: see _common_text
_REST = "(the rest)"  # stands for what is missing of a file of several documents
_LAST_SECOND = 253_402_300_799  # of the year 9999: a file's time can be anything
_LINE_END = re.compile(r"\r\n|[\n\r]")


T = TypeVar("T")
Place = tuple[str, str]
"""(root, source) of a document, a file or a failure."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to ingest; `created_at` and `versions` are recorded in a new index. `wait_seconds` for another writer.

    `parsing` limits what a file may cost; `parse_workers` processes parse side by side.
    """

    encoder: EncoderSpec
    chunking: ChunkingSpec
    max_file_bytes: int
    created_at: str
    versions: Mapping[str, str]
    wait_seconds: float = 5.0
    parsing: Limits = field(default_factory=Limits)
    parse_workers: int = 1

    def manifest(self) -> IndexManifest:
        """What a new index is built under."""
        return IndexManifest(self.encoder, self.chunking, created_at=self.created_at, versions=self.versions)


@dataclass(slots=True)
class _Tally:
    """Counts of a run in progress."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    outdated: list[Place] = field(default_factory=list)  # held by a file of several documents last time, and not now
    unchanged: int = 0
    failures: list[Failure] = field(default_factory=list)
    chunks: int = 0
    tokens: int = 0
    embedded: int = 0
    keys: set[bytes] = field(default_factory=set)
    interrupted: bool = False


def ingest(
    paths: Sequence[Path],
    *,
    folder: Path,
    settings: Settings,
    make_encoder: Callable[[], Encoder],
    report: Report,
    analyzer: Analyzer | None = None,
    prune: bool = False,
    rebuild: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> IngestReport:
    """Bring the index in `folder` up to date with the files under `paths`.

    `make_encoder` is called only when there is something to encode; `analyzer` says how texts become index terms. When
    `stop` answers True, the documents that are complete are published and the run ends; of a rebuild, nothing is.
    `rebuild` takes every document in the index anew, from its file or, where that cannot be read any more, from its
    stored text. Raises IndexMismatchError when the index was built another way and `rebuild` is not asked for.
    """
    started = time.perf_counter()
    analyzer = analyzer or Analyzer()
    exists = Store.exists(folder)
    rebuild = rebuild and exists
    if rebuild:
        paths = [*paths, *_ingested_before(folder)]
    report(Progress("looking for files", 0, None, "files"))
    discovery = discover(paths, max_file_bytes=settings.max_file_bytes)
    tally = _Tally(failures=list(discovery.failures))
    gone: list[tuple[str, str, str]] = []
    if discovery.files or exists:
        with ExitStack() as stack:
            live = stack.enter_context(Store.open(folder) if exists else Store.create(folder, settings.manifest()))
            if not rebuild:
                check_encoder(live.manifest, settings)
                check_chunking(live.manifest, settings)
                store = live
            else:
                store = stack.enter_context(beside(live, settings.manifest(), wait_seconds=settings.wait_seconds))
            stack.enter_context(one_blas_thread())
            writer = stack.enter_context(
                store.writer(wait_seconds=settings.wait_seconds, analyzer=analyzer, locked=rebuild)
            )
            pool = stack.enter_context(ParsingPool(workers=settings.parse_workers, limits=settings.parsing))
            files = _Files(discovery, live, settings, tally, report, pool=pool, rebuild=rebuild)
            indexer = _Indexer(store, writer, settings, make_encoder, analyzer, report=report, tally=tally, stop=stop)
            for batch in _batches(chain(files.changed(), files.kept(prune=prune) if rebuild else ())):
                files.indexed(indexer.add(batch, sample=files.sample, encoded=files.encoding))
                if stop():
                    break
            tally.interrupted = stop()
            gone = [] if tally.interrupted else files.gone()
            pruned = [doc_id for _, _, doc_id in gone] if prune else []
            if not rebuild:
                indexer.publish(files, [*pruned, *files.superseded()])
            elif not tally.interrupted:
                indexer.publish_beside(files, live)
                switch(folder, store.folder)
    if rebuild and tally.interrupted:
        tally.added, tally.changed = [], []
    seconds = time.perf_counter() - started
    return _report(tally, discovery, gone=[source for _, source, _ in gone], prune=prune, seconds=seconds)


def ingest_documents(
    documents: Sequence[Document],
    *,
    root: str,
    folder: Path,
    settings: Settings,
    make_encoder: Callable[[], Encoder],
    analyzer: Analyzer | None = None,
    report: Report = lambda _: None,
) -> None:
    """Make the index in `folder` hold just these documents under a root: what is no file, such as lines of a corpus.

    Documents whose content hash is in the index already are left alone. Raises IndexMismatchError when the index was
    built another way.
    """
    exists = Store.exists(folder)
    analyzer = analyzer or Analyzer()
    with Store.open(folder) if exists else Store.create(folder, settings.manifest()) as store:
        check_encoder(store.manifest, settings)
        check_chunking(store.manifest, settings)
        stored = store.hashes(root)
        gone = {doc_id for doc_id, _ in stored.values()} - {document.doc_id for document in documents}
        new = [one for one in documents if stored.get(one.source) != (one.doc_id, one.content_hash)]
        if not new and not gone and is_current(store, analyzer) and is_usable(store):
            return
        with (
            one_blas_thread(),
            store.writer(wait_seconds=settings.wait_seconds, analyzer=analyzer) as writer,
        ):
            indexer = _Indexer(
                store,
                writer,
                settings,
                make_encoder,
                analyzer,
                report=report,
                tally=_Tally(),
                stop=lambda: False,
            )
            done = 0
            for batch in _batches(new):
                indexer.add(batch, sample=lambda: iter(sorted(new, key=_scattered)), encoded=lambda _: None)
                done += len(batch)
                report(Progress("reading and encoding", done, len(new), "documents"))
            indexer.remove(sorted(gone), roots=[root])


def _scattered(document: Document) -> str:
    """A key that puts documents into an order that has nothing to do with the one they came in."""
    return document_id("", document.source)


def document_id(root: str, source: str) -> str:
    """The id of a file, the same as long as it stays where it is."""
    return hashlib.blake2b(f"{root}\0{source}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def check_encoder(found: IndexManifest, settings: Settings) -> None:
    """Raise IndexMismatchError when an index was built with another encoder than the settings ask for."""
    if found.encoder != settings.encoder:
        raise IndexMismatchError(
            f"the index was built with {_described(found.encoder)} but the settings ask for "
            f"{_described(settings.encoder)}; use --encoder {found.encoder.name}, or build the index anew with: "
            "rag ingest PATH --rebuild"
        )


def check_chunking(found: IndexManifest, settings: Settings) -> None:
    """Raise IndexMismatchError when an index was cut otherwise than the settings ask for."""
    if found.chunking != settings.chunking:
        differ = [
            f"{name} {old} (now {new})"
            for name, old in asdict(found.chunking).items()
            if old != (new := getattr(settings.chunking, name))
        ]
        raise IndexMismatchError(
            f"the index was cut with {', '.join(differ)}; change the settings back, or build it anew with: "
            "rag ingest PATH --rebuild"
        )


def forget_documents(
    store: Store, doc_ids: Sequence[str], *, settings: Settings, encoder: Encoder, analyzer: Analyzer | None = None
) -> None:
    """Remove documents from the index and from its word statistics."""
    check_encoder(store.manifest, settings)
    settings = replace(settings, chunking=store.manifest.chunking)
    analyzer = analyzer or Analyzer()
    with store.writer(wait_seconds=settings.wait_seconds, analyzer=analyzer) as writer:
        indexer = _Indexer(store, writer, settings, lambda: encoder, analyzer, tally=_Tally(), stop=lambda: False)
        indexer.remove(doc_ids)


def _ingested_before(folder: Path) -> list[Path]:
    """The folders that were ingested whole, and the files of others that were named one by one."""
    with Store.open(folder) as store:
        roots = store.roots()
        alone = [
            Path(row.root, row.source) for row in store.documents() if _is_folder(row.root) and row.root not in roots
        ]
    return [*map(Path, roots), *alone]


def _described(encoder: EncoderSpec) -> str:
    return (
        f"encoder '{encoder.name}' ({encoder.dimension}-d, {encoder.pooling} pooling, revision {encoder.revision[:12]})"
    )


class _Files:
    """Turns found files into documents, leaving out those whose bytes are in the index already.

    A file may hold several documents (an archive, a mail with attachments): those inside have a source below its own.
    """

    def __init__(
        self,
        discovery: Discovery,
        store: Store,
        settings: Settings,
        tally: _Tally,
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
        anew = {doc_id for place, doc_id in self._read_ones.items() if place not in failed}
        left_out = {*self.superseded(), *(doc_id for _, _, doc_id in self.gone() if prune)}
        for row in self._store.documents():
            if row.doc_id not in anew | left_out and (document := self._store.document(row.doc_id)):
                yield document

    def sample(self) -> Iterator[Document]:
        """Documents from all over the files, in an order that stays the same when their folder is moved."""
        for (found, _), results in self._pool.parse_files(self._scattered()):
            for name, result in results:
                if isinstance(result, Parsed):  # what fails is reported when its turn comes
                    yield _document(found, _inside(found, name), result)

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
            if not any((root, above) in there for above in _with_parents(source))
        ]

    def superseded(self) -> list[str]:
        """Documents that files no longer hold, or that this run has read under another root: each is there once."""
        if self._tally.interrupted:
            return []
        roots = set(self._store.document_roots())
        return [self._stored[root][source][0] for root, source in self._tally.outdated] + [
            doc_id
            for root, source in sorted(self._read_ones.keys() - self._failed())
            for other, its_source in _places(f"{root}/{source}")
            if other in roots - {root}
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
        return {(failure.root, failure.source) for failure in self._tally.failures}

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
        return content_hash in hashes and _inside(found, _REST) not in failed

    def _leave(self, found: FoundFile) -> None:
        """Take note that the index has a file already."""
        parts = self._parts[found.root, found.source]
        self._note_read([(found.root, found.source), *parts])
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
            results = [*before, (_REST, end)]
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
        return not self._rebuild and all(self._store.document(one.doc_id) == one for one in documents)

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


class _Indexer:
    """Chunks and encodes documents into a writer, and keeps the word statistics in step."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        settings: Settings,
        make_encoder: Callable[[], Encoder],
        analyzer: Analyzer,
        *,
        report: Report = lambda _: None,
        tally: _Tally,
        stop: Callable[[], bool],
    ) -> None:
        self._store, self._writer, self._settings = store, writer, settings
        self._make_encoder, self._analyzer, self._report = make_encoder, analyzer, report
        self._tally, self._stop = tally, stop
        self._tools: _Tools | None = None
        self._sampled: dict[bytes, Encoded] = {}

    def add(
        self,
        documents: Sequence[Document],
        *,
        sample: Callable[[], Iterator[Document]],
        encoded: Callable[[float], None],
    ) -> list[Document]:
        """Chunk, encode and stage a batch of documents. Returns those staged: all whose encoding was not stopped.

        `encoded` is told how far the batch is, in [0, 1].
        """
        tools = self._tools or self._load(sample)
        if self._stop():
            return []
        split = []
        inputs: dict[bytes, str] = {}
        for document in documents:
            chunks = tools.split(document)
            keyed = tools.inputs(chunks)
            inputs.update(keyed)
            split.append((document, chunks, [key for key, _ in keyed]))
        ids = self._encode(tools, inputs, encoded)
        staged = []
        for document, chunks, keys in split:
            if not all(key in ids for key in keys):
                break  # not even one that is complete: of a file of several documents the last stands for all
            self._writer.stage(document, chunks, [ids[key] for key in keys], _lines(document.text, chunks))
            self._forget(tools, document.doc_id)
            tools.count(document, chunks, sign=1)
            staged.append(document)
            self._tally.chunks += len(chunks)
            self._tally.tokens += sum(chunk.tokens for chunk in chunks)
            self._tally.keys.update(keys)
        self._writer.commit_batch()
        return staged

    def publish(self, files: _Files, pruned: Sequence[str]) -> None:
        """Take out what is gone and make the new state visible; nothing is written when nothing changed."""
        before, after = files.failures()
        no_news = before == after and set(files.roots) <= set(self._store.roots())
        current = is_current(self._store, self._analyzer) and is_usable(self._store)
        if not self._tools and not pruned and no_news and current:
            return
        self._writer.fail(after)
        alone = [place for place in files.places() if place[0] not in files.roots]
        self.remove(pruned, roots=files.roots, sources=alone)

    def publish_beside(self, files: _Files, live: Store) -> None:
        """Complete a version that is built beside the live one, with all that is known of its roots and failures."""
        self._writer.fail(files.failures()[1])
        self.remove((), roots=sorted({*files.roots, *live.roots()}), after=live.generation)

    def remove(
        self,
        doc_ids: Sequence[str],
        *,
        roots: Sequence[str] = (),
        sources: Sequence[tuple[str, str]] = (),
        after: int = 0,
    ) -> None:
        """Take documents out, and publish that with everything else that is staged."""
        for doc_id in doc_ids:
            self._forget(self._tools or self._load(lambda: iter(())), doc_id)
        self._writer.remove(doc_ids)
        blobs = {STATISTICS_BLOB: self._tools.statistics.dump()} if self._tools else {}
        if self._writer.blob(EVIDENCE_BLOB) is None:
            blobs[EVIDENCE_BLOB] = CALIBRATED.dump()
        self._writer.publish(
            roots=roots,
            sources=sources,
            blobs=blobs,
            drop_unreferenced=not self._tally.interrupted,
            after=after,
            progress=lambda done, total: self._report(Progress("indexing words", done, total, "chunks")),
        )

    def _load(self, sample: Callable[[], Iterator[Document]]) -> _Tools:
        encoder = self._make_encoder()
        stored = self._store.blob(STATISTICS_BLOB)
        statistics = Statistics.load(stored) if stored else Statistics(encoder.tokenizer.get_vocab_size())
        chunker = Chunker(encoder.tokenizer, self._settings.chunking, prefix=encoder.spec.passage_prefix)
        name = codec_blob(encoder.spec)
        saved = self._writer.blob(name)
        self._tools = tools = _Tools(encoder, chunker, statistics)
        if saved is not None:
            tools.codec = SignCodec.load(saved, dimension=encoder.spec.dimension)
        else:
            tools.codec = self._fit(tools, sample())
            if self._sampled and not self._stop():  # one fitted on less than it could be is not for keeping
                self._writer.put_blob(name, tools.codec.dump())
        return tools

    def _fit(self, tools: _Tools, sample: Iterable[Document]) -> SignCodec:
        """Fit the token codec on documents from all over the corpus; what is encoded for it is not encoded again."""
        seen = 0
        for documents, wanted in ((sample, _SAMPLE_TOKENS), (_common_text(), _ENOUGH_TOKENS)):
            for key, text in chain.from_iterable(tools.inputs(tools.split(document)) for document in documents):
                if seen >= wanted or self._stop():
                    break
                if key not in self._sampled:
                    self._sampled[key] = next(iter(tools.encoder.encode([text])))
                    seen += len(self._sampled[key].ids)
                    self._report(Progress("sampling the documents", seen, None, "tokens"))
        tokens = [encoded.tokens for encoded in self._sampled.values()]
        return SignCodec.fit(
            np.concatenate(tokens) if tokens else np.eye(tools.encoder.spec.dimension, dtype=np.float32)
        )

    def _encode(
        self, tools: _Tools, inputs: Mapping[bytes, str], encoded_share: Callable[[float], None]
    ) -> dict[bytes, int]:
        """Key -> embedding id of every text; of fewer when the run is stopped meanwhile."""
        ids = self._writer.known(list(inputs), with_codes=True)
        new = [key for key in inputs if key not in ids]
        fresh = iter(tools.encoder.encode([inputs[key] for key in new if key not in self._sampled]))
        for key in new:  # in the order of the documents, so that a stopped run has whole ones
            encoded = self._sampled.pop(key) if key in self._sampled else next(fresh)
            codes = tools.codec.encode(encoded.tokens)
            ids[key] = self._writer.add_embeddings([key], encoded.vector[None, :], [codes])[0]
            self._tally.embedded += 1
            if self._tally.embedded % _COMMIT_TEXTS == 0:
                self._writer.commit_batch()
            encoded_share(len(ids) / len(inputs))
            if self._stop():
                break
        return ids

    def _forget(self, tools: _Tools, doc_id: str) -> None:
        """Take the published version of a document out of the statistics."""
        old = self._store.document(doc_id)
        if old is not None:
            tools.count(old, tools.split(old), sign=-1)


class _Tools:
    """What it takes to index a document; loaded when the first one needs it."""

    codec: SignCodec

    def __init__(self, encoder: Encoder, chunker: Chunker, statistics: Statistics) -> None:
        self.encoder, self._chunker, self.statistics = encoder, chunker, statistics

    def split(self, document: Document) -> list[Chunk]:
        """The chunks that hold anything but white space; one for a text that came from no folder."""
        if not _is_folder(document.root):
            return [Chunk(document.doc_id, document.doc_id, 0, 0, len(document.text), document.text, tokens=0)]
        return [chunk for chunk in self._chunker.split(document) if chunk.text.strip()]

    def inputs(self, chunks: Sequence[Chunk]) -> list[tuple[bytes, str]]:
        """The key of each chunk's embedding, and what the encoder reads for it."""
        texts = [passage_input(chunk.context, chunk.text) for chunk in chunks]
        return [(embedding_key(self.encoder.spec, text), text) for text in texts]

    def count(self, document: Document, chunks: Sequence[Chunk], *, sign: int) -> None:
        """Add chunks to the statistics, or take them away; texts from no folder are never counted."""
        if not _is_folder(document.root):
            return
        encodings = self.encoder.tokenizer.encode_batch_fast(
            [clean(one.text) for one in chunks], add_special_tokens=False
        )
        for encoding in encodings:
            self.statistics.add(encoding.ids, sign=sign)


def _is_folder(root: str) -> bool:
    """Whether documents come from files; those added through LangChain have a root that is no path."""
    return root.startswith("/")


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


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents so that a batch has enough text to encode and little enough to hold."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) * 4 >= _BATCH_TEXTS or characters >= _BATCH_TEXTS * 1000:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _common_text() -> Iterator[Document]:
    """English that every machine has, to fit a codec on where a corpus is small.

    A codec stays with its index, so one fitted on the few words of a first note would spoil all that comes later.
    Measured on an index of two sentences: the evidence for plain questions about one of them rises from .18 (refused)
    to .55, that for questions about something else from .10 to .27; more than 5,000 tokens change nothing.
    """
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(name, "/", name, "text/plain", name, text[:2000])


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


def _lines(text: str, chunks: Sequence[Chunk]) -> list[int]:
    """The line, from 1, of the first visible character of each chunk."""
    ends = [match.end() for match in _LINE_END.finditer(text)]
    firsts = (chunk.start + len(chunk.text) - len(chunk.text.lstrip()) for chunk in chunks)
    return [1 + bisect_right(ends, first) for first in firsts]


def _report(tally: _Tally, discovery: Discovery, *, gone: Sequence[str], prune: bool, seconds: float) -> IngestReport:
    outdated = [] if tally.interrupted else [source for _, source in tally.outdated]
    return IngestReport(
        added=tuple(tally.added),
        changed=tuple(tally.changed),
        unchanged=tally.unchanged,
        missing=() if prune else tuple(gone),
        pruned=(*outdated, *(gone if prune else ())),
        failures=tuple(tally.failures),
        skipped=discovery.skipped,
        chunks=tally.chunks,
        embedded=tally.embedded,
        duplicates=tally.chunks - len(tally.keys),
        tokens=tally.tokens,
        seconds=seconds,
        interrupted=tally.interrupted,
    )
