"""The records that travel between the rooms: Document, Chunk, Hit, IndexManifest. No behaviour but look-ups."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from retrieval.synonyms import Expansion

SpanKind = Literal["heading", "page", "cell", "code", "table", "slide", "sheet", "row"]


@dataclass(frozen=True, slots=True)
class Span:
    """A marked stretch of a document's text, `text[start:end]`.

    heading: the heading line with its markup; `number` is the level (1 = top), `label` the bare title.
    page, cell: `number` counts from 1. Pages and cells are ordered and do not overlap.
    code, table: a block to keep whole when it fits, with its fences or rules.
    slide: `number` counts from 1, `label` is its title. sheet: the same, with its name. row: `number` is what the
    program that made the table shows beside it.
    """

    kind: SpanKind
    start: int
    end: int
    number: int = 0
    label: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed document. Offsets everywhere are Unicode code points in `text`.

    `root` is the ingested folder (absolute, POSIX separators), `source` the path relative to it.
    `content_hash` is the SHA-256 of the file's bytes, hexadecimal.
    """

    doc_id: str
    root: str
    source: str
    media_type: str
    title: str
    text: str
    spans: tuple[Span, ...] = ()
    content_hash: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)

    def line_at(self, position: int) -> int:
        """The line that holds a character, counted from 1; \\n, \\r\\n and a lone \\r each end a line."""
        return line_at(self.text, position)

    def page_at(self, position: int) -> int | None:
        """The page that holds a character, counted from 1; None in a document without pages."""
        return number_at(self.spans, "page", position)

    def slide_at(self, position: int) -> int | None:
        """The slide that holds a character; None in a document without slides."""
        return number_at(self.spans, "slide", position)

    def sheet_at(self, position: int) -> str | None:
        """The name of the sheet that holds a character; None in a document without sheets."""
        return next((span.label for span in self._at("sheet", position)), None)

    def row_at(self, position: int) -> int | None:
        """The row that holds a character; None outside of tables that number theirs."""
        return next((span.number for span in self._at("row", position)), None)

    def _at(self, kind: SpanKind, position: int) -> Iterator[Span]:
        return (span for span in self.spans if span.kind == kind and span.start <= position < span.end)

    def heading_at(self, position: int) -> tuple[str, ...]:
        """Titles of the headings above a character, outermost first, its own heading line included."""
        return heading_path(self.spans, position)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a document, `document.text[start:end] == text`, small enough for the encoder to read whole.

    `context` is what the encoder reads before the text (title and headings that the text itself does not show).
    `tokens` counts what the encoder reads in all: special tokens, prefix, context and text.
    """

    chunk_id: str
    doc_id: str
    ordinal: int
    start: int
    end: int
    text: str
    tokens: int
    heading: tuple[str, ...] = ()
    page: int | None = None
    context: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Another place where the very same chunk text stands."""

    chunk_id: str
    doc_id: str
    source: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The chunk right before or after a hit, in the same document."""

    chunk_id: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Stages:
    """Where a passage stood at each stage of a search.

    Ranks count from 1; None where a stage did not list it. Scores are each stage's own: cosine, BM25, the fused score
    and the late-interaction score the last order comes from. overlap_score: idf share of the question's terms in it.
    """

    dense_rank: int | None = None
    dense_score: float | None = None
    lexical_rank: int | None = None
    lexical_score: float | None = None
    fused_rank: int | None = None
    fused_score: float | None = None
    interaction_score: float | None = None
    overlap_score: float | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage that a search looked at.

    sources: of its document, then of others that hold the very same text; twins: chunk_ids in those. by_part: only a
    part of the question found it, and its ranks are of that search.
    """

    chunk_id: str
    sources: tuple[str, ...]
    stages: Stages
    twins: tuple[str, ...] = ()
    by_part: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """A passage that a stage found and the result does not show, and why."""

    source: str
    chunk_id: str
    reason: str
    stages: Stages


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved chunk. `score` is higher-is-better and comparable within one result list only."""

    rank: int
    score: float
    chunk_id: str
    doc_id: str
    source: str
    start: int
    end: int
    text: str
    heading: tuple[str, ...] = ()
    page: int | None = None
    line: int = 1
    context: str = ""
    also_in: tuple[Place, ...] = ()
    stages: Stages | None = None
    before: Neighbour | None = None
    after: Neighbour | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """How hits were found. weights: share of each retriever in the fusion. terms: idf shares of the question's terms.

    evidence_features: what the evidence is made of. parts: of a question that asks several things, searched by part;
    empty for one question. dropped: what came close and is not shown, best first.
    """

    evidence_features: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    terms: Mapping[str, float] = field(default_factory=dict)
    expansions: tuple[Expansion, ...] = ()
    parts: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()

    def traced(self) -> dict[str, Any]:
        """These fields by name, for another record that is a trace as well."""
        return {each.name: getattr(self, each.name) for each in fields(Trace)}


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be ingested: what was met, why, and what to do."""

    root: str
    source: str
    reason: str
    advice: str


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What makes two vectors comparable: the model and how it is used.

    `revision` is the SHA-256 of the weights (hexadecimal) or a hub commit; prefixes are put before every text.
    """

    name: str
    revision: str
    dimension: int
    max_tokens: int
    pooling: str = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""


@dataclass(frozen=True, slots=True)
class ChunkingSpec:
    """How documents are cut. Lengths in encoder tokens and in characters; `overlap` is a share of max_tokens."""

    max_tokens: int = 512
    max_chars: int = 4000
    overlap: float = 0.1
    heading_context: bool = True
    version: int = 1


@dataclass(frozen=True, slots=True)
class IndexManifest:
    """Everything the numbers of an index depend on."""

    encoder: EncoderSpec
    chunking: ChunkingSpec
    created_at: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def line_at(text: str, position: int) -> int:
    """The line of a character, counted from 1; \\n, \\r\\n and a lone \\r each end a line."""
    ends = text.count("\n", 0, position) + text.count("\r", 0, position) - text.count("\r\n", 0, position)
    split_pair = 0 < position < len(text) and text[position] == "\n" and text[position - 1] == "\r"
    return 1 + ends - split_pair


def number_at(spans: tuple[Span, ...], kind: SpanKind, position: int) -> int | None:
    """The number of the last span of a kind that starts at or before a position (the first one, before all)."""
    marked = [span for span in spans if span.kind == kind]
    if not marked:
        return None
    before = bisect_right([span.start for span in marked], position)
    return marked[max(before - 1, 0)].number


def heading_path(spans: tuple[Span, ...], position: int) -> tuple[str, ...]:
    """Titles of the headings in force at a position, outermost first."""
    path: list[Span] = []
    for span in spans:
        if span.kind != "heading":
            continue
        if span.start > position:
            break
        while path and path[-1].number >= span.number:
            path.pop()
        path.append(span)
    return tuple(span.label for span in path)
