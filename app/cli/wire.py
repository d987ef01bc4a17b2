"""Records as JSON for other programs. Keys may be added, never changed. Knows records and JSON; prints nothing."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.pipeline import SearchResult
    from ingest.records import IngestReport
    from reader.records import Answer, Citation, PromptInfo, Written
    from retrieval.filters import Filter
    from retrieval.receipt import Receipt
    from retrieval.records import Hit, Neighbour, Stages
    from retrieval.store import StoredChunk

# json leaves these raw without ensure_ascii. Lone surrogates cannot be written as UTF-8; C1 controls and changes of
# direction act on terminals; some readers of one-object-a-line take U+0085, U+2028 and U+2029 for line ends. They stand
# inside JSON strings only, where an escape means the same.
_UNSAFE = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Json = dict[str, object]


def dumps(record: Mapping[str, object], *, encoding: str | None = "utf-8") -> str:
    """One object on one line. Non-ASCII text stays as it is where the encoding of the stream can carry it."""
    unicode = (encoding or "").lower().replace("-", "").replace("_", "").startswith("utf")
    line = json.dumps(record, ensure_ascii=not unicode, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def answer_record(answer: Answer, *, explain: bool = False) -> Json:
    """The object of `rag ask --json`; with `explain` it also holds `matches`."""
    record: Json = {
        "question": answer.question,
        "answer": answer.text,
        "abstained": answer.abstained,
        "citations": [citation_record(citation) for citation in answer.citations],
        "hits": [hit_record(hit) for hit in answer.hits],
        "reader": asdict(answer.reader),
        "prompt": _or_none(answer.prompt),
        "evidence": answer.evidence,
        "timings_ms": dict(answer.timings_ms),
        "abstention": answer.abstention,
        "sentences": [asdict(sentence) for sentence in answer.sentences],
        "written": _or_none(answer.written),
    }
    if explain:
        record["matches"] = [asdict(match) for match in answer.matches]
    return record


def search_record(result: SearchResult, filters: Filter | None) -> Json:
    """The object of `rag search --json`."""
    return {
        "question": result.question,
        "hits": [hit_record(hit, text=True) for hit in result.hits],
        "timings_ms": dict(result.timings_ms),
        "filter": None if filters is None else filters.describe(),
        "parts": list(result.parts),
        "terms": dict(result.terms),
        "expansions": [asdict(expansion) for expansion in result.expansions],
        "weights": dict(result.weights),
        "evidence": result.evidence,
        "dropped": [asdict(dropped) for dropped in result.dropped],
    }


def hit_record(hit: Hit, *, text: bool = False) -> Json:
    """One hit; its text, and those of the chunks around it, only where asked for."""
    record: Json = {
        "rank": hit.rank,
        "score": hit.score,
        "chunk_id": hit.chunk_id,
        "doc_id": hit.doc_id,
        "source": hit.source,
        "start": hit.start,
        "end": hit.end,
        "heading": list(hit.heading),
        "page": hit.page,
        "line": hit.line,
        "also_in": [asdict(place) for place in hit.also_in],
        "stages": _or_none(hit.stages),
    }
    if not text:
        return record
    return {**record, "text": hit.text, "before": _or_none(hit.before), "after": _or_none(hit.after)}


def _or_none(record: Stages | Neighbour | PromptInfo | Written | None) -> Json | None:
    return None if record is None else asdict(record)


def citation_record(citation: Citation) -> Json:
    """One citation."""
    return {**asdict(citation), "heading": list(citation.heading)}


def ingest_record(report: IngestReport) -> Json:
    """The object of `rag ingest --json`."""
    return asdict(report)


def receipt_record(receipt: Receipt) -> Json:
    """What `rag delete --json` says of what is left."""
    return {**asdict(receipt), "gone": receipt.is_gone}


def chunk_record(stored: StoredChunk) -> Json:
    """A line of `rag index export`."""
    chunk = stored.chunk
    return {
        "doc_id": chunk.doc_id,
        "root": stored.root,
        "source": stored.source,
        "chunk_id": chunk.chunk_id,
        "ordinal": chunk.ordinal,
        "start": chunk.start,
        "end": chunk.end,
        "line": stored.line,
        "page": chunk.page,
        "heading": list(chunk.heading),
        "context": chunk.context,
        "tokens": chunk.tokens,
        "text": chunk.text,
        "metadata": dict(stored.metadata),
    }
