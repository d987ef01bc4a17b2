"""The one door to tantivy: BM25 over the index terms of passages, keyed by embedding id like the dense index.

Knows ids, terms and weights; never a language, a document or the score of another retriever. How a text becomes terms
is the analyzer's business: tantivy is given the terms as they are.

On disk an index is a folder named by its generation, which nobody writes to once the store has recorded it. The next
one starts from hard links to its files: tantivy never changes a segment file in place, only its two lists of files,
which are copied. `listing.json` names each file with its size and SHA-256; the store's record holds the listing's own.
The terms of a deleted passage stay inside a segment, out of reach of every search, until it is merged or written anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.database import LEXICAL, Artefact, PassageText
from retrieval.errors import IndexCorruptError, MissingPackageError, RagError
from retrieval.versions import open_regular, sync_folder

if TYPE_CHECKING:
    from retrieval.store import Store

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Progress = Callable[[int, int], None]

MAX_CLAUSES = 1024  # measured with 200,000 passages: 8 ms for as many rare terms
_MAX_WEIGHT = 1e6
_MOST_TIES = 10_000
_TITLE_WEIGHT = 3
_FEW_IDS = 5000  # up to here clauses find them faster than a term set: 1,000,000 passages, 2,000 ids, 17 ms against 33
_HEAP_BYTES = 64_000_000
_DROP_ATTEMPTS = 20
_LISTING = "listing.json"
_LISTING_BYTES = 1 << 20
_FOLDER = re.compile(r"lexical-[0-9]{6,}")
_MUTABLE = (".managed.json", "meta.json")
_NAME = re.compile(r"\.managed\.json|meta\.json|[0-9a-f]{32}(\.[0-9]+)?\.[a-z]+")
# What tantivy's whitespace tokenizer would split at or drop, and what is no UTF-8, goes in as a digest. It splits at
# these five characters only, not at U+00A0 or U+3000, and drops terms of more than 65,530 bytes.
_PLAIN = re.compile(r"[^\x00\t\n\f\r \ud800-\udfff]{1,200}")


class TermAnalyzer(Protocol):
    """How a text becomes index terms. Two analyzers with one fingerprint give the same terms for every text."""

    @property
    def fingerprint(self) -> str:
        """Names the analysis, word lists included."""

    def terms(self, text: str) -> list[str]:
        """The index terms of a text, in order, with repeats."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds. `deleted`: passages that are in the files still; they count in the statistics of BM25.

    `files`: name -> (bytes, SHA-256).
    """

    analyzer: str
    passages: int
    deleted: int
    files: Mapping[str, tuple[int, str]]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(size for size, _ in self.files.values())


# ---- searching -------------------------------------------------------------------------------------------------------


class LexicalIndex:
    """Passages by the terms in them. Safe to use from several threads.

    `generation` is the state of the store it holds. `notice` is a line for people when the recorded files could not be
    used, None otherwise. Scores are BM25 (k1 = 1.2, b = .75, Robertson's idf plus 1 inside the logarithm), times a
    weight a term. tantivy keeps the length of a passage in one byte (exact up to 40 terms, then up to 1 in 8 less), and
    counts deleted passages in its statistics until their segment is merged or written anew.

    Of a question with more than 1,024 terms that occur in the index, those of the highest weight times idf are used.
    """

    def __init__(self, analyzer: TermAnalyzer) -> None:
        self._analyzer = analyzer
        self._view = _View(-1, None, _searcher(_new_index()))
        self._place: Path | None = None
        self._checked: tuple[Path | None, Mapping[str, tuple[int, str]]] = (None, {})  # of which version of the index

    @property
    def generation(self) -> int:
        """The state of the store it holds; -1 before there is one."""
        return self._view.generation

    @property
    def notice(self) -> str | None:
        """What was wrong with the recorded files."""
        return self._view.notice

    @property
    def size(self) -> int:
        """How many passages it holds."""
        return self._view.size

    @property
    def ids(self) -> Ints:
        """The ids it holds: int64 (n,), ascending."""
        return np.sort(self._view.best(_tantivy().Query.all_query(), max(1, self.size))[1])

    def search(self, weights: Mapping[str, float], k: int, *, among: Ints | None = None) -> tuple[Floats, Ints]:
        """The k best passages with any of the terms: scores, float32, and ids, int64, best first, ties by id.

        `weights`: term -> its weight, at least 0. `among`: only these ids are looked at, however few or many they are.
        Where more than 10,000 passages share the k-th score, which of them are shown depends on when they were added.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        view = self._view
        query = view.bm25(weights)
        k = min(k, view.size)
        if query is None or not k:
            return _nothing()
        return view.best(query, k) if among is None else view.best_among(query, k, _ascending(among))

    def scores(self, weights: Mapping[str, float], ids: Ints) -> Floats:
        """The score of each of these passages, float32 (n,), what `search` gives it; 0 where no term occurs."""
        view = self._view
        return view.values(view.bm25(weights), ids)

    def overlap(self, weights: Mapping[str, float], ids: Ints) -> Floats:
        """The summed weights of the terms that occur in each of these passages, float32 (n,)."""
        view = self._view
        return view.values(view.presence(weights), ids)

    def document_frequencies(self, terms: Sequence[str]) -> Ints:
        """In how many passages each term occurs, int64 (n,); deleted ones count until they are merged away."""
        return self._view.document_frequencies(terms)

    def follow(self, store: Store, *, build: bool) -> bool:
        """Take over the store's state; False if it is there already, or was replaced while we looked.

        In the latter case a look from a new snapshot will do; with `build`, one is made in memory instead.
        """
        with store.snapshot():
            generation = store.generation
            if generation == self.generation and store.folder == self._place:
                return False
            record = store.artefact(LEXICAL)
            try:
                view = self._recorded(store, record, generation)
            except (OSError, IndexCorruptError) as error:
                if not build and _was_replaced(store, record):
                    return False
                file = (
                    f"{record.file if record else 'it'}: {error.strerror}" if isinstance(error, OSError) else str(error)
                )
                notice = f"lexical index built in memory: {file}; rag index repair writes it anew"
                view = _in_memory(store, self._analyzer, notice)
            self._view, self._place = view, store.folder
        return True

    def _recorded(self, store: Store, record: Artefact | None, generation: int) -> _View:
        if record is None:
            if store.live_embeddings().size:
                raise IndexCorruptError("there is none on disk yet; the next ingest writes it")
            return _View(generation, None, _searcher(_new_index()))
        folder = folder_of(store.folder, record)
        listing = read_listing(folder, record)
        if listing.analyzer != self._analyzer.fingerprint:
            raise IndexCorruptError(f"{record.file} was made by another analysis of words; the next ingest rewrites it")
        changes = store.changes_since(record.generation)
        if changes is None or any(changed.size for changed in changes):
            raise IndexCorruptError(f"{record.file} is behind the index; the next ingest brings it up to date")
        known = self._checked[1] if self._checked[0] == store.folder else {}
        check_folder(folder, listing, known)
        self._checked = store.folder, listing.files
        return _View(generation, None, _open_searcher(folder, listing))


def open_lexical(store: Store, analyzer: TermAnalyzer) -> LexicalIndex:
    """The lexical index of the store's current state.

    Where the recorded files are missing, damaged, behind or made by another analyzer, it is built in memory from the
    stored texts, and `notice` says so: 20,000 passages a second plus what the analyzer takes.
    """
    lexical = LexicalIndex(analyzer)
    for last in (False, False, True):
        if lexical.follow(store, build=last):
            break
    return lexical


def is_current(store: Store, analyzer: TermAnalyzer) -> bool:
    """Whether the recorded files hold the store's state, by this analyzer, undamaged."""
    with store.snapshot():
        record, generation = store.artefact(LEXICAL), store.generation
        if record is None:
            return not store.live_embeddings().size
        changes = store.changes_since(record.generation)
    if changes is None or any(changed.size for changed in changes) or record.generation > generation:
        return False
    try:
        folder = folder_of(store.folder, record)
        listing = read_listing(folder, record)
        check_folder(folder, listing)
    except (OSError, IndexCorruptError):
        return False
    return listing.analyzer == analyzer.fingerprint


class _View:
    """One state, never changed: what a search holds on to while another thread refreshes the index."""

    def __init__(self, generation: int, notice: str | None, searcher: Any) -> None:
        self.generation, self.notice, self._searcher = generation, notice, searcher
        self.size = int(searcher.num_docs)

    def bm25(self, weights: Mapping[str, float]) -> Any:
        """None where no term occurs."""
        query = _tantivy().Query
        return _any_of([query.boost_query(_term(token), weight) for token, weight in self._clauses(weights)])

    def presence(self, weights: Mapping[str, float]) -> Any:
        """None where no term occurs."""
        query = _tantivy().Query
        return _any_of([query.const_score_query(_term(token), weight) for token, weight in self._clauses(weights)])

    def best(self, query: Any, k: int) -> tuple[Floats, Ints]:
        """The k best, ties by id: of those that share the k-th score all are looked at, up to a limit."""
        limit = k + 10
        while True:
            scores, ids = self._hits(query, limit)
            if len(ids) < limit or scores[k - 1] > scores[-1] or limit >= k + _MOST_TIES:
                break
            limit = k + 10 * (limit - k)
        order = np.lexsort((ids, -scores))[:k]
        return scores[order], ids[order]

    def best_among(self, query: Any, k: int, allowed: Ints) -> tuple[Floats, Ints]:
        """Filter what is found while that costs less than to look only at what is allowed.

        Measured with 1,000,000 passages: 10,000 hits take 9 ms, 40,000 24 ms; to look only at 1,000 ids takes 6 ms, at
        5,000 42 ms, at 100,000 100 ms.
        """
        if not len(allowed):
            return _nothing()
        limit = 2 * k * self.size // len(allowed) + 1
        while limit < 10 * len(allowed):
            scores, ids = self._hits(query, limit)
            inside = allowed[np.minimum(np.searchsorted(allowed, ids), len(allowed) - 1)] == ids
            if len(ids) == limit:
                inside &= scores > scores[-1]  # there may be more of the last score
            if inside.sum() >= k or len(ids) < limit:
                order = np.lexsort((ids[inside], -scores[inside]))[:k]
                return scores[inside][order], ids[inside][order]
            limit *= 4
        return self.best(_both(_ids(allowed), query), min(k, len(allowed)))

    def values(self, query: Any, ids: Ints) -> Floats:
        """What a query gives to each id, 0 where it does not match."""
        values = np.zeros(len(ids), dtype=np.float32)
        wanted, where = np.unique(ids, return_inverse=True)
        if query is not None and len(wanted):
            scores, found = self._hits(_both(_ids(wanted), query), len(wanted))
            of_wanted = np.zeros(len(wanted), dtype=np.float32)
            of_wanted[np.searchsorted(wanted, found)] = scores
            values = of_wanted[where]
        return values

    def document_frequencies(self, terms: Sequence[str]) -> Ints:
        return np.array([self._searcher.doc_freq("terms", _token(term)) for term in terms], dtype=np.int64)

    def _clauses(self, weights: Mapping[str, float]) -> list[tuple[str, float]]:
        """Token and weight of the terms that occur; see LexicalIndex for what becomes of very many."""
        wrong = [weight for weight in weights.values() if not 0 <= weight <= _MAX_WEIGHT]
        if wrong:
            raise ValueError(f"a weight must be from 0 to {_MAX_WEIGHT:g}, not {wrong[0]}")
        clauses = [(_token(term), float(weight)) for term, weight in weights.items() if weight]
        if len(clauses) <= MAX_CLAUSES:
            return clauses
        weighed = [(weight * self._idf(token), token, weight) for token, weight in clauses]
        weighed.sort(key=lambda each: (-each[0], each[1]))
        return [(token, weight) for value, token, weight in weighed[:MAX_CLAUSES] if value]

    def _idf(self, token: str) -> float:
        """0 for a term that does not occur."""
        inside = self._searcher.doc_freq("terms", token)
        return math.log1p((max(self.size - inside, 0) + 0.5) / (inside + 0.5)) if inside else 0.0

    def _hits(self, query: Any, limit: int) -> tuple[Floats, Ints]:
        with _explained("the lexical index"):
            hits = self._searcher.search(query, limit, count=False).hits
            ids = self._searcher.fast_field_values("id", [address for _, address in hits])
        return np.array([score for score, _ in hits], dtype=np.float32), np.array(ids, dtype=np.int64)


def _nothing() -> tuple[Floats, Ints]:
    return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)


def _ascending(ids: Ints) -> Ints:
    """Each id once. A look before np.unique spares a search among 100,000 ids most of its time (25 ms to 3)."""
    return ids if (np.diff(ids) > 0).all() else np.unique(ids)


def _term(token: str) -> Any:
    return _tantivy().Query.term_query(_schema(), "terms", token, index_option="freq")


def _any_of(clauses: Sequence[Any]) -> Any:
    tantivy = _tantivy()
    if not clauses:
        return None
    return tantivy.Query.boolean_query([(tantivy.Occur.Should, clause) for clause in clauses])


def _both(condition: Any, query: Any) -> Any:
    """What matches both, scored by the second alone."""
    tantivy = _tantivy()
    unscored = tantivy.Query.const_score_query(condition, 0.0)
    return tantivy.Query.boolean_query([(tantivy.Occur.Must, unscored), (tantivy.Occur.Must, query)])


def _ids(ids: Ints) -> Any:
    query, schema = _tantivy().Query, _schema()
    if len(ids) > _FEW_IDS:
        return query.term_set_query(schema, "id", ids.tolist())
    return _any_of([query.term_query(schema, "id", each) for each in ids.tolist()])


@lru_cache(maxsize=1 << 16)
def _token(term: str) -> str:
    """A term as tantivy can keep it; see _PLAIN."""
    if _PLAIN.fullmatch(term):
        return term
    return "\0" + hashlib.sha256(term.encode("utf-8", "surrogatepass")).hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------


def folder_of(place: Path, record: Artefact) -> Path:
    """The recorded folder. Raises IndexCorruptError on a record that leads anywhere else."""
    if not _FOLDER.fullmatch(record.file):
        raise IndexCorruptError(f"the index records '{record.file}' as its lexical index, which is none of ours")
    return place / record.file


def read_listing(folder: Path, record: Artefact) -> Listing:
    """What a recorded folder is to hold. Raises OSError without a listing, IndexCorruptError on another one."""
    with open_regular(folder / _LISTING) as file:
        data = file.read(_LISTING_BYTES + 1)
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise IndexCorruptError(f"the listing of {record.file} does not have the recorded checksum")
    try:
        fields = json.loads(data)
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in fields.pop("files").items()}
        listing = Listing(files=files, **fields)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise IndexCorruptError(f"the listing of {record.file} cannot be read: {error}") from error
    if not all(_NAME.fullmatch(name) for name in files):
        raise IndexCorruptError(f"the listing of {record.file} names files that are none of ours")
    return listing


def check_folder(folder: Path, listing: Listing, known: Mapping[str, tuple[int, str]] | None = None) -> None:
    """Compare every file with the listing: tantivy is given nothing that is not as it was written.

    `known`: files of an earlier listing that were compared before, which never change. Measured at 1,000,000 passages,
    144 MB: .1 s. Raises OSError or IndexCorruptError.
    """
    if not all(name in listing.files for name in _MUTABLE):
        raise IndexCorruptError(f"the listing of '{folder}' has no list of segments")
    for name, facts in listing.files.items():
        found = (folder / name).lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != facts[0]:
            raise IndexCorruptError(f"'{folder / name}' has {found.st_size} bytes, expected {facts[0]}")
        compared = name not in _MUTABLE and (known or {}).get(name) == facts
        if not compared and _digest(folder / name) != facts[1]:
            raise IndexCorruptError(f"'{folder / name}' does not have the recorded checksum")


def verify_folder(place: Path, record: Artefact, live: Ints | None) -> Iterator[str]:
    """Everything that is wrong with a recorded folder. `live`: the embeddings it is to hold, None if it is behind."""
    try:
        folder = folder_of(place, record)
        listing = read_listing(folder, record)
        check_folder(folder, listing)
        view = _View(record.generation, None, _open_searcher(folder, listing))
        ids = np.sort(view.best(_tantivy().Query.all_query(), max(1, view.size))[1])
    except OSError as error:
        yield f"the lexical index {record.file} cannot be read: {error.strerror}"
    except IndexCorruptError as error:
        yield str(error)
    else:
        if len(ids) != listing.passages or (live is not None and not np.array_equal(ids, live)):
            yield f"the lexical index {record.file} holds other embeddings than the store"


def _open_searcher(folder: Path, listing: Listing) -> Any:
    """A searcher over the files of a folder, which may be dropped while it is in use.

    tantivy makes a lock file where it reads, which a folder of somebody else does not allow, so it is shown links.
    """
    links = Path(tempfile.mkdtemp(prefix="lexical-"))
    try:
        for name in listing.files:
            (links / name).symlink_to((folder / name).absolute())
        with _explained(f"'{folder}'"):
            searcher = _searcher(_tantivy().Index(_schema(), path=str(links)))  # refuses other fields than ours
    finally:
        _drop(links)
    # Room is made for as many as it claims to hold, and tantivy ends the process where there is none.
    if searcher.num_docs != listing.passages or listing.passages > listing.size:
        raise IndexCorruptError(f"'{folder}' holds {searcher.num_docs} passages, expected {listing.passages}")
    return searcher


def passage_terms(passage: PassageText, analyzer: TermAnalyzer) -> list[str]:
    """The index terms of a passage. What stands above it says what it is about: each of those terms counts three times,
    whether its text shows them or not.

    Measured, nDCG@10 of BM25 with titles counted once and three times: musique100 .529, .567; hotpot100 .815, .836;
    clapnq_dev .941, .947; scifact .654, .658; cranfield .413, .420; five times gains no more.
    """
    above_it = passage.context.split(" > ")
    shown = "\n".join(heading for heading in passage.outline if heading not in above_it)
    above = analyzer.terms(passage.context)
    return [*analyzer.terms(passage.text), *_TITLE_WEIGHT * above, *(_TITLE_WEIGHT - 1) * analyzer.terms(shown)]


def _in_memory(store: Store, analyzer: TermAnalyzer, notice: str) -> _View:
    index = _new_index()
    _add(index, analyzer, store.passages())
    return _View(store.generation, notice, _searcher(index))


def _was_replaced(store: Store, record: Artefact | None) -> bool:
    """Whether another process has published since the snapshot we are in, and dropped what we look for."""
    with type(store).open(store.home) as fresh:
        return fresh.artefact(LEXICAL) != record


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_folder(
    folder: Path,
    *,
    fingerprint: str,
    analyzer: TermAnalyzer | None = None,
    texts: Iterable[PassageText] = (),
    base: tuple[Path, Listing] | None = None,
    removed: Iterable[int] = (),
) -> tuple[Listing, str]:
    """Make a folder: what is in `base`, a checked one, less `removed`, plus `texts`. Survives a power cut.

    Returns its listing and the listing's SHA-256. `analyzer` is needed for texts; `fingerprint` names the one all
    passages went through. One thread; 64 MB of room for terms, however much there is to add.
    """
    _drop(folder)
    folder.mkdir()
    known = _take_over(*base, folder) if base else {}
    with _explained(f"'{folder}'", writing=True):
        index = _tantivy().Index(_schema(), path=str(folder))
    _add(index, analyzer, texts, removed)
    passages = int(_searcher(index).num_docs)
    meta = json.loads((folder / "meta.json").read_bytes())
    held = sum(segment["max_doc"] for segment in meta["segments"])
    listing = Listing(fingerprint, passages, held - passages, _files(folder, known))
    digest = _save_listing(folder, listing)
    sync_folder(folder)
    sync_folder(folder.parent)
    return listing, digest


def drop_folders(place: Path, keep: str | None) -> None:
    """Remove every lexical folder but one. Who has its files open goes on reading them."""
    for folder in place.glob("lexical-*"):
        if _FOLDER.fullmatch(folder.name) and folder.name != keep:
            _drop(folder)


def _take_over(base: Path, listing: Listing, folder: Path) -> dict[str, tuple[int, str]]:
    """Link the files of a folder into a new one; returns what is known of those that never change."""
    for name in listing.files:
        try:
            if name in _MUTABLE:
                shutil.copyfile(base / name, folder / name)
            else:
                os.link(base / name, folder / name, follow_symlinks=False)
        except OSError:  # a file system without hard links
            shutil.copyfile(base / name, folder / name)
    return {name: facts for name, facts in listing.files.items() if name not in _MUTABLE}


def _add(index: Any, analyzer: TermAnalyzer | None, texts: Iterable[PassageText], removed: Iterable[int] = ()) -> None:
    tantivy = _tantivy()
    what = "the lexical index"
    with _explained(what, writing=True):
        writer = index.writer(_HEAP_BYTES, 1)
    try:
        for each in removed:
            with _explained(what, writing=True):
                writer.delete_documents_by_term("id", int(each))
        for passage in texts:
            if analyzer is None:
                raise ValueError("texts cannot be added without an analyzer")
            document = tantivy.Document()
            document.add_integer("id", passage.embedding)
            document.add_text("terms", " ".join(map(_token, passage_terms(passage, analyzer))))
            with _explained(what, writing=True):
                writer.add_document(document)
        with _explained(what, writing=True):
            writer.commit()
            writer.wait_merging_threads()
    finally:
        del writer  # ends its threads, even where a traceback holds on to this frame


def _files(folder: Path, known: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """What lies in a folder, each file safe on disk; only new ones are read."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".lock":
            path.unlink()
        elif path.name in known and path.stat().st_nlink > 1:
            files[path.name] = known[path.name]
        else:
            path.chmod(folder.stat().st_mode & 0o666)  # tantivy keeps its two lists from users who may read the rest
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[path.name] = path.stat().st_size, _digest(path)
    return files


def _save_listing(folder: Path, listing: Listing) -> str:
    data = json.dumps(asdict(listing), sort_keys=True).encode()
    with (folder / _LISTING).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


def _drop(folder: Path) -> None:
    """Remove a folder, or what stands in its place.

    A thread that tantivy starts with an index looks at it once, and may make its lock file while we are at it.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    for attempt in range(_DROP_ATTEMPTS):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            return
        except OSError:
            if attempt + 1 == _DROP_ATTEMPTS:
                raise
            time.sleep(0.01)
        else:
            return


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- tantivy ---------------------------------------------------------------------------------------------------------


def _tantivy() -> Any:
    try:
        import tantivy
    except ImportError as error:
        raise MissingPackageError("tantivy is not installed; run: pip install tantivy") from error
    return tantivy


@lru_cache(maxsize=1)
def _schema() -> Any:
    """Nothing is stored but ids. 'freq': positions are not needed."""
    builder = _tantivy().SchemaBuilder()
    builder.add_text_field("terms", tokenizer_name="whitespace", index_option="freq")
    builder.add_integer_field("id", indexed=True, fast=True)
    return builder.build()


def _new_index() -> Any:
    return _tantivy().Index(_schema())


def _searcher(index: Any) -> Any:
    index.config_reader("manual")  # the other policy watches the files from a thread of its own
    index.reload()
    return index.searcher()


@contextmanager
def _explained(what: str, *, writing: bool = False) -> Iterator[None]:
    """Turn tantivy's errors, and its panics over damaged files, into ours."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, ValueError) or type(error).__name__ == "PanicException":
            said = " ".join(str(error).split())[:200]
            if writing:
                raise RagError(f"{what} could not be written: {said}; nothing was changed") from error
            raise IndexCorruptError(f"{what} cannot be read by tantivy: {said}") from error
        raise
