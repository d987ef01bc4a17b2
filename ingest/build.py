"""The ingest loop: find files, parse, chunk, encode what is new, store, publish. Knows every room it passes through.

A file is skipped when its bytes are those of last time. Files are parsed in other processes while texts are encoded in
this one. What is encoded is committed every few texts, so that a killed run loses no more than those; what readers see
changes once, at the end. A rebuild goes into a version of its own beside the live one, and takes its place at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

from ingest.discover import Discovery, discover
from ingest.files import Files, document_id
from ingest.indexer import Indexer, Settings, Tally, batches, is_folder
from ingest.isolate import ParsingPool
from ingest.records import IngestReport, Place, Progress, Report
from retrieval.analyze import Analyzer
from retrieval.dense import is_usable
from retrieval.encoder import Encoder
from retrieval.errors import IndexMismatchError
from retrieval.lexical import is_current
from retrieval.maintain import beside
from retrieval.records import Document, EncoderSpec, IndexManifest
from retrieval.store import Store
from retrieval.threads import one_blas_thread
from retrieval.versions import switch


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
        with Store.open(folder) as store:
            paths = [*paths, *ingested_before(store)]
    report(Progress("looking for files", 0, None, "files"))
    discovery = discover(paths, max_file_bytes=settings.max_file_bytes)
    tally = Tally(failures=list(discovery.failures))
    gone: list[tuple[str, str, str]] = []
    if discovery.files or exists:
        with ExitStack() as stack:
            live = stack.enter_context(Store.ensure(folder, settings.manifest(), wait_seconds=settings.wait_seconds))
            store = live
            if not rebuild:
                _check(live.manifest, settings)
            else:
                store = stack.enter_context(beside(live, settings.manifest(), wait_seconds=settings.wait_seconds))
            stack.enter_context(one_blas_thread())
            writer = stack.enter_context(
                store.writer(wait_seconds=settings.wait_seconds, analyzer=analyzer, locked=rebuild)
            )
            _check(writer.manifest, settings)  # another process may have switched while this one waited
            pool = stack.enter_context(ParsingPool(workers=settings.parse_workers, limits=settings.parsing))
            files = Files(discovery, live, settings, tally, report, pool=pool, rebuild=rebuild)
            indexer = Indexer(store, writer, settings, make_encoder, analyzer, report=report, tally=tally, stop=stop)
            for batch in batches(chain(files.changed(), files.kept(prune=prune) if rebuild else ())):
                files.indexed(indexer.add(batch, sample=files.sample, encoded=files.encoding))
                if stop():
                    break
            tally.interrupted = stop()
            gone = [] if tally.interrupted else files.gone()
            pruned = [doc_id for _, _, doc_id in gone] if prune else []
            if not rebuild:
                _publish(indexer, files, live, analyzer, removed=[*pruned, *files.superseded()])
            elif not tally.interrupted:
                roots = sorted({*files.roots, *live.roots()})
                indexer.publish(failures=files.failures()[1], roots=roots, after=live.generation)
                switch(folder, store.folder, previous=live.folder)
    if rebuild and tally.interrupted:
        tally.added, tally.changed = [], []
    seconds = time.perf_counter() - started
    return _report(tally, discovery, gone=[source for _, source, _ in gone], prune=prune, seconds=seconds)


def _publish(indexer: Indexer, files: Files, store: Store, analyzer: Analyzer, *, removed: Sequence[str]) -> None:
    """Take out what is gone and make the new state visible; nothing is written when nothing changed."""
    before, after = files.failures()
    no_news = before == after and set(files.roots) <= set(store.roots())
    current = is_current(store, analyzer) and is_usable(store)
    if indexer.is_idle and not removed and no_news and current:
        return
    alone = [place for place in files.places() if place[0] not in files.roots]
    indexer.publish(removed=removed, failures=after, roots=files.roots, sources=alone)


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
    analyzer = analyzer or Analyzer()
    with Store.ensure(folder, settings.manifest(), wait_seconds=settings.wait_seconds) as store:
        _check(store.manifest, settings)
        stored = store.hashes(root)
        gone = {doc_id for doc_id, _ in stored.values()} - {document.doc_id for document in documents}
        new = [one for one in documents if stored.get(one.source) != (one.doc_id, one.content_hash)]
        if not new and not gone and is_current(store, analyzer) and is_usable(store):
            return
        with (
            one_blas_thread(),
            store.writer(wait_seconds=settings.wait_seconds, analyzer=analyzer) as writer,
        ):
            _check(writer.manifest, settings)
            indexer = Indexer(store, writer, settings, make_encoder, analyzer, report=report, tally=Tally())
            done = 0
            for batch in batches(new):
                indexer.add(batch, sample=lambda: iter(sorted(new, key=_scattered)), encoded=lambda _: None)
                done += len(batch)
                report(Progress("reading and encoding", done, len(new), "documents"))
            indexer.publish(removed=sorted(gone), roots=[root])


def _scattered(document: Document) -> str:
    """A key that puts documents into an order that has nothing to do with the one they came in."""
    return document_id("", document.source)


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


def _check(found: IndexManifest, settings: Settings) -> None:
    check_encoder(found, settings)
    check_chunking(found, settings)


def forget_documents(
    store: Store,
    doc_ids: Sequence[str],
    *,
    settings: Settings,
    encoder: Encoder,
    analyzer: Analyzer | None = None,
    failed: Sequence[Place] = (),
) -> None:
    """Remove documents from the index and from its word statistics, and what is said of files that `failed`."""
    analyzer = analyzer or Analyzer()
    with store.writer(wait_seconds=settings.wait_seconds, analyzer=analyzer) as writer:
        check_encoder(writer.manifest, settings)
        settings = replace(settings, chunking=writer.manifest.chunking)
        indexer = Indexer(store, writer, settings, lambda: encoder, analyzer, tally=Tally())
        indexer.publish(removed=doc_ids, sources=failed)


def ingested_before(store: Store) -> list[Path]:
    """The folders that were ingested whole, and the files of others that were named one by one."""
    roots = store.roots()
    rows = [row for row in store.documents() if is_folder(row.root) and row.root not in roots]
    return [*map(Path, roots), *sorted({_file_of(Path(row.root, row.source)) for row in rows})]


def _file_of(place: Path) -> Path:
    """The file that a document is, or is inside of."""
    return next((each for each in (place, *place.parents) if each.is_file()), place)


def _described(encoder: EncoderSpec) -> str:
    return (
        f"encoder '{encoder.name}' ({encoder.dimension}-d, {encoder.pooling} pooling, revision {encoder.revision[:12]})"
    )


def _report(tally: Tally, discovery: Discovery, *, gone: Sequence[str], prune: bool, seconds: float) -> IngestReport:
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
