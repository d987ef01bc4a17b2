"""Mend a damaged index: what is sound is taken over into a new version, what is missing is made again or named as lost.

Knows a damaged store and how documents are indexed; never a file of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from ingest.build import check_encoder
from ingest.files import REST
from ingest.indexer import Indexer, Settings, Tally, batches, is_folder, words_in
from ingest.records import Place, Progress, Report
from retrieval.analyze import Analyzer
from retrieval.checks import derived_problems, stored_problems
from retrieval.encoder import Encoder
from retrieval.errors import IndexBusyError
from retrieval.maintain import beside
from retrieval.records import Failure
from retrieval.retriever import EVIDENCE_BLOB, codec_blob
from retrieval.salvage import Salvage
from retrieval.store import Store, Writer
from retrieval.threads import one_blas_thread
from retrieval.versions import switch, versions

_COMMIT_ROWS = 1000


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found and did. `problems`: as `rag index verify` says them. `lost`: (root, source) to ingest again.

    `kept` documents, `embedded` texts that had to be encoded again. With `rewritten` only search files were damaged.
    `again`: the folders and files to ingest, to have back what was lost.
    """

    problems: tuple[str, ...]
    rewritten: bool = False
    kept: int = 0
    embedded: int = 0
    lost: tuple[Place, ...] = ()
    again: tuple[str, ...] = ()


def repair(
    folder: Path,
    *,
    settings: Settings,
    make_encoder: Callable[[], Encoder],
    analyzer: Analyzer,
    report: Report = lambda _: None,
) -> RepairReport:
    """Check the index in a folder, and mend it where that finds anything.

    Search files are written anew from the store. Of a damaged store a new version is made from every document and
    embedding that has its checksum; the damaged one stays as the previous version. Raises RagError where not even the
    manifest can be read.
    """
    report(Progress("checking", 0, None, "parts"))
    with Store.open(folder) as store:
        stored, derived = stored_problems(store), derived_problems(store)
        if not stored:
            if derived:
                with store.writer(wait_seconds=settings.wait_seconds, analyzer=analyzer) as writer:
                    writer.publish(roots=(), rewrite_dense=True, rewrite_lexical=True, progress=words_in(report))
            return RepairReport(tuple(derived), rewritten=bool(derived))
        return _salvaged(store, (*stored, *derived), settings, make_encoder, analyzer, report)


def _salvaged(  # noqa: PLR0917 - what it takes to index
    store: Store,
    problems: tuple[str, ...],
    settings: Settings,
    make_encoder: Callable[[], Encoder],
    analyzer: Analyzer,
    report: Report,
) -> RepairReport:
    tally = Tally()
    source = store.folder
    with (
        Salvage(store.folder) as salvage,
        beside(store, salvage.manifest, wait_seconds=settings.wait_seconds, resume=False) as draft,
        one_blas_thread(),
        draft.writer(locked=True, analyzer=analyzer) as writer,
    ):
        if versions(store.home).live != source:
            raise IndexBusyError("another process has just replaced this index; run it again")
        check_encoder(salvage.manifest, settings)
        settings = replace(settings, encoder=salvage.manifest.encoder, chunking=salvage.manifest.chunking)
        _take_over(salvage, writer, report)
        indexer = Indexer(draft, writer, settings, make_encoder, analyzer, report=report, tally=tally)
        kept = 0
        for batch in batches(salvage.documents()):
            kept += len(indexer.add(batch, sample=lambda: iter(batch), encoded=lambda _: None))  # noqa: B023 - used at once
            report(Progress("taking over documents", kept, None, "documents"))
        roots, failures = salvage.roots(), [*salvage.failures(), *_missing_parts(salvage.lost)]
        indexer.publish(failures=failures, roots=roots, after=salvage.generation)
        switch(store.home, draft.folder, previous=source)
    again = {root if root in roots else f"{root}/{name}" for root, name in salvage.lost if is_folder(root) and name}
    return RepairReport(
        problems, kept=kept, embedded=tally.embedded, lost=tuple(salvage.lost), again=tuple(sorted(again))
    )


def _missing_parts(lost: Sequence[Place]) -> Iterator[Failure]:
    """Of a file of several documents that lost one, the next run must know that it has not all of it."""
    for root, source in lost:
        for above in accumulate(source.split("/")[:-1], "{}/{}".format):
            yield Failure(root, f"{above}/{REST}", "lost from a damaged index", "run: rag ingest")


def _take_over(salvage: Salvage, writer: Writer, report: Report) -> None:
    """Everything that need not be encoded again."""
    codec, evidence = codec_blob(salvage.manifest.encoder), salvage.blob(EVIDENCE_BLOB)
    basis = salvage.blob(codec)
    if basis is not None:
        writer.put_blob(codec, basis)
    if evidence is not None:
        writer.put_blob(EVIDENCE_BLOB, evidence)
    for number, one in enumerate(salvage.embeddings(), start=1):
        codes = one.codes if basis is not None else None  # codes cannot be read without the basis they were made with
        writer.add_embeddings([one.key], one.vector[None, :], [codes])
        if number % _COMMIT_ROWS == 0:
            writer.commit_batch()
            report(Progress("taking over vectors", number, None, "vectors"))
    writer.commit_batch()
