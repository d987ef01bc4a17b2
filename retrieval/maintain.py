"""Whole versions of an index: one beside the live one, compacted, backed up, restored. Knows stores; never a model.

Nothing is done in place. A new version is made in a folder of its own, checked against itself, and takes the place of
the live one by one rename, so a kill at any moment leaves the one or the other (`retrieval/versions.py`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING

from retrieval.checks import stored_problems
from retrieval.database import DATABASE, check_format, connect_for_writing, explained, write_lock
from retrieval.errors import IndexCorruptError, IndexMissingError, RagError
from retrieval.store import Store
from retrieval.versions import draft_of, drop, make_folder, switch, sync_folder, tidy, versions

if TYPE_CHECKING:
    from retrieval.lexical import Progress, TermAnalyzer
    from retrieval.records import IndexManifest

_FACTS, _FACTS_BYTES = "backup.json", 100_000
_BLOCK = 1 << 20
_REPAIR = "; run: rag index repair"


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What a backup holds. `sha256` and `bytes` are of the database inside."""

    created_at: str
    generation: int
    documents: int
    chunks: int
    bytes: int
    sha256: str
    format: int = 1


@contextmanager
def beside(live: Store, manifest: IndexManifest, *, wait_seconds: float, resume: bool = True) -> Iterator[Store]:
    """A version beside the live one, which nobody reads until `switch` names it. Holds the writer lock meanwhile.

    What a killed run under the same manifest has left goes on (`resume`): its embeddings are not made again.
    """
    with write_lock(live.home, wait_seconds):
        folder = draft_of(live.home)
        if not (resume and _goes_on(live.home, folder, manifest)):
            Store.make(_empty_draft(live.home), manifest)
        with Store(live.home, version=folder) as draft:
            yield draft


def compact(store: Store, analyzer: TermAnalyzer, *, wait_seconds: float, progress: Progress | None = None) -> None:
    """Write the whole index anew without anything that was deleted, and drop every other version of it.

    Raises IndexCorruptError, and changes nothing, where the index is not sound.
    """
    with write_lock(store.home, wait_seconds):
        _refuse("nothing was changed, for the index", stored_problems(store), _REPAIR)
        with store.writer(locked=True) as writer:
            writer.sweep()
        draft = _empty_draft(store.home)
        try:
            with explained(store.folder), closing(connect_for_writing(store.folder)) as connection:
                connection.execute("VACUUM INTO ?", (str(draft / DATABASE),))
        except BaseException:
            drop(draft)
            raise
        problems = _complete(store.home, draft, analyzer, after=store.generation, progress=progress)
        _refuse("nothing was changed, for the index", problems, _REPAIR)
        switch(store.home, draft, previous=None)


def backup(store: Store, path: Path, *, created_at: str, replace: bool = False) -> BackupFacts:
    """Write one file from which `restore` makes the index again. Raises RagError where there is one already.

    It holds the database as it is at one moment, with its SHA-256; the search files are made again from it.
    """
    if path.exists() and not replace:
        raise RagError(f"'{path}' is there already; choose another name, or replace it with --force")
    _refuse("nothing was written, for the index", stored_problems(store), _REPAIR)
    with _said(path), TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:  # for nobody else's eyes
        database, draft = Path(place, DATABASE), Path(place, "backup")
        with explained(store.folder), closing(sqlite3.connect(database, isolation_level=None)) as copy:
            store.copy_to(copy)
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()
        with closing(sqlite3.connect(database)) as copy:
            facts = _facts(copy, database, created_at)
        with open(draft, "wb", opener=_for_its_owner) as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                data = _dump(facts)
                archive.addfile(_member(_FACTS, len(data)), io.BytesIO(data))
                with database.open("rb") as source:
                    archive.addfile(_member(DATABASE, facts.bytes), source)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    return facts


def restore(
    home: Path, path: Path, analyzer: TermAnalyzer, *, wait_seconds: float, progress: Progress | None = None
) -> BackupFacts:
    """Make the index of a backup the live one. What was live before stays as the previous version.

    Raises RagError on a file that cannot be read, IndexCorruptError on one that is not as `backup` wrote it; then
    nothing has changed.
    """
    with _said(path), path.open("rb") as file:
        make_folder(home)
        with write_lock(home, wait_seconds):
            known = versions(home)
            earlier = known.live if _is_there(known.live) else known.previous
            draft = _empty_draft(home)
            try:
                facts = _unpack(file, path, draft)
                with explained(draft), closing(connect_for_writing(draft)) as connection:
                    check_format(draft, connection)
            except BaseException:
                drop(draft)
                raise
            problems = _complete(home, draft, analyzer, after=_generation(home), progress=progress)
            _refuse(f"nothing was changed, for '{path}'", problems)
            switch(home, draft, previous=earlier if _is_there(earlier) else None)
    return facts


def restore_previous(home: Path, analyzer: TermAnalyzer, *, wait_seconds: float) -> None:
    """Make the version live again that was live before the last switch; the present one becomes the previous."""
    if not home.is_dir() or (versions(home).previous is None and not Store.exists(home)):
        raise IndexMissingError(
            f"there is no index in '{home}'; run: rag ingest PATH, or name a file that rag index backup wrote"
        )
    with write_lock(home, wait_seconds):
        known = versions(home)
        previous = known.previous
        if previous is None or not _is_there(previous):
            raise RagError("there is no earlier version of this index; name a file that rag index backup wrote")
        with Store(home, version=previous) as store, store.writer(locked=True, analyzer=analyzer) as writer:
            writer.publish(roots=(), after=_generation(home))
        switch(home, previous, previous=known.live if _is_there(known.live) else None)


def _goes_on(home: Path, folder: Path, manifest: IndexManifest) -> bool:
    """Whether there is a draft that was made as the manifest says."""
    with suppress(RagError), Store(home, version=folder) as draft:
        found = draft.manifest
        # One that was published holds documents, which may have been deleted from the live index since.
        return (
            not folder.is_symlink()
            and draft.generation == 0
            and (found.encoder, found.chunking) == (manifest.encoder, manifest.chunking)
        )
    return False


def _empty_draft(home: Path) -> Path:
    tidy(home)
    draft = draft_of(home)
    draft.mkdir(mode=0o700)
    draft.chmod(stat.S_IMODE(home.stat().st_mode))  # whoever may read the index may read this version of it
    return draft


def _complete(home: Path, draft: Path, analyzer: TermAnalyzer, *, after: int, progress: Progress | None) -> list[str]:
    """Write the search files of a database and check the whole: what is wrong with it. Drops it then, and on errors."""
    try:
        with explained(draft), closing(connect_for_writing(draft)) as connection:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()  # a copy does not keep it
        with Store(home, version=draft) as store:
            with store.writer(locked=True, analyzer=analyzer) as writer:
                writer.publish(roots=(), rewrite_dense=True, rewrite_lexical=True, after=after, progress=progress)
            problems = store.verify()
    except BaseException:
        drop(draft)
        raise
    if problems:
        drop(draft)
    return problems


def _refuse(what: str, problems: list[str], advice: str = "") -> None:
    """Raise IndexCorruptError where there are problems."""
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise IndexCorruptError(f"{what} is damaged: {problems[0]}{more}{advice}")


def _is_there(version: Path | None) -> bool:
    return version is not None and (version / DATABASE).is_file()


def _generation(home: Path) -> int:
    """Of the live version; 0 where there is none that can be read."""
    with suppress(RagError), Store.open(home) as store:
        return store.generation
    return 0


# ---- the backup file -------------------------------------------------------------------------------------------------


def _facts(copy: sqlite3.Connection, database: Path, created_at: str) -> BackupFacts:
    def one(sql: str) -> int:
        return int(copy.execute(sql).fetchone()[0])

    with database.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return BackupFacts(
        created_at=created_at,
        generation=one("SELECT value FROM manifest WHERE key = 'generation'"),
        documents=one("SELECT count(*) FROM documents WHERE generation IS NOT NULL"),
        chunks=one("SELECT total(chunks) FROM documents WHERE generation IS NOT NULL"),
        bytes=database.stat().st_size,
        sha256=sha256,
    )


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _dump(facts: BackupFacts) -> bytes:
    fields = json.dumps(asdict(facts))
    return json.dumps({"facts": fields, "sha256": hashlib.sha256(fields.encode()).hexdigest()}).encode()


def _load(data: bytes) -> BackupFacts:
    """Raises ValueError, TypeError or KeyError on other bytes."""
    packed = json.loads(data)
    if hashlib.sha256(packed["facts"].encode()).hexdigest() != packed["sha256"]:
        raise ValueError("another checksum")
    return BackupFacts(**json.loads(packed["facts"]))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _unpack(file: IO[bytes], path: Path, draft: Path) -> BackupFacts:
    """Take the database out of a backup; what it is called in there is compared, never used."""
    other = IndexCorruptError(f"'{path}' is not a backup that rag index backup wrote, or is damaged")
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            first = archive.next()
            if first is None or first.name != _FACTS or not first.isreg() or first.size > _FACTS_BYTES:
                raise other
            packed = archive.extractfile(first)
            facts = _load(packed.read() if packed else b"")
            second = archive.next()
            if (
                second is None
                or second.name != DATABASE
                or not second.isreg()
                or second.issparse()
                or second.size != facts.bytes
            ):
                raise other
            source = archive.extractfile(second)
            digest = hashlib.sha256()
            with (draft / DATABASE).open("wb") as target:
                while source and (block := source.read(_BLOCK)):
                    digest.update(block)
                    target.write(block)
                target.flush()
                os.fsync(target.fileno())
    except (tarfile.TarError, EOFError, TypeError, ValueError, LookupError, RecursionError, AttributeError) as error:
        raise other from error
    if digest.hexdigest() != facts.sha256:
        raise IndexCorruptError(f"'{path}' is damaged: its database does not have the recorded checksum")
    return facts


@contextmanager
def _said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RagError(f"'{path}' cannot be used as a backup: {error.strerror or error}") from error
