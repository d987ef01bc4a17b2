"""Ingest beside the bare encoder, its memory over time, and what becomes of both with many files or a huge one."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.config import load_config, process_environment
from bench.data import data_folder
from bench.processes import Part, serve, take_turns, watch
from bench.scaling import PreparedEncoder
from bench.table import Table
from ingest.build import ingest
from ingest.indexer import Settings
from ingest.isolate import Limits
from ingest.records import Progress
from retrieval.encoder import BUNDLED_NAME, Encoder, load_encoder
from retrieval.records import ChunkingSpec
from retrieval.store import Store
from retrieval.threads import one_blas_thread

_ROUNDS = 3
_EVERY = 10  # of the files are ingested beside the bare encoder
_FILES, _FOLDERS = 100_000, 300
_HUGE_BYTES = 200_000_000
_RAISED = Limits(seconds=600, memory_bytes=4 << 30, max_chars=1_000_000_000)


# ---- what is measured ------------------------------------------------------------------------------------------------


def run_beside_encoder() -> Table:
    """A tenth of hf_docs: all of `rag ingest`, and the encoder alone on the same texts, in turns of a second."""
    rows: list[list[str]] = []
    ratios: list[tuple[float, float]] = []
    with TemporaryDirectory() as name:
        work = Path(name)
        files = _copy_some(work / "documents")
        for number in range(_ROUNDS):
            index = work / f"index-{number}"
            if not number:
                _save_texts(work / "documents", index, work / "texts.json")
            parts = {
                "bare encoder": Part.start(__name__, "encode", str(work / "texts.json")),
                "rag ingest": Part.start(__name__, "ingest", str(work / "documents"), str(index), "real"),
            }
            take_turns(list(parts.values()))
            bare, ours = parts.values()
            ratios.append((bare.seconds / ours.seconds, bare.result["cpu_seconds"] / ours.result["cpu_seconds"]))
            for what, part in parts.items():
                tokens = bare.result["tokens"]
                cpu = part.result["cpu_seconds"]
                rows.append([what, f"{part.seconds:.1f}", f"{cpu:.1f}", f"{tokens / part.seconds:,.0f}", ""])
            rows[-1][-1] = f"{ratios[-1][0]:.2f}, {ratios[-1][1]:.2f}"
            shutil.rmtree(index)
    clock, cpu = (statistics.median(each) for each in zip(*ratios, strict=True))
    rows.append(["median", "", "", "", f"{clock:.2f}, {cpu:.2f}"])
    note = (
        f"{files} files, {bare.result['texts']} texts of {tokens:,} tokens; models loaded beforehand, publishing "
        "included. Two processes, one second each in turn, so that both see the same machine: by the clock counts "
        "only the time each had. Processor time includes the processes that parse."
    )
    header = ("what", "seconds", "processor seconds", "tokens/s", "share of the bare encoder: clock, processor")
    return Table("Ingest beside the bare encoder", header, rows, note)


def run_memory() -> Table:
    """All of hf_docs with the bundled encoder, memory looked at every second."""
    folder = data_folder("corpora", "hf_docs")
    with TemporaryDirectory() as name:
        part = Part.start(__name__, "ingest", str(folder), str(Path(name) / "index"), "real")
        samples = watch(part)
    tenths = [samples[(len(samples) - 1) * tenth // 10] for tenth in range(1, 11)]
    found = part.result
    rows = [
        ["this process", *(f"{own / 1e6:.0f}" for own, _ in tenths), f"{found['peak'] / 1e6:.0f}"],
        [
            "those that parse",
            *(f"{others / 1e6:.0f}" for _, others in tenths),
            f"{max(others for _, others in samples) / 1e6:.0f}",
        ],
    ]
    header = ("MB", *(f"{tenth}0%" for tenth in range(1, 11)), "peak")
    note = (
        f"MB resident after each tenth of {part.seconds:.0f} s, and at most; both together never more than "
        f"{max(map(sum, samples)) / 1e6:.0f} MB at a full second. {_outcome(found)}."
    )
    return Table("Memory while all of hf_docs is ingested", header, rows, note)


def run_scale() -> Table:
    """Many small files and a huge one. The encoder is a stand-in: 60 million tokens would be hours of a real one."""
    with TemporaryDirectory() as name:
        work = Path(name)
        rows = [*_many(work), *_huge(work)]
    note = (
        "With an encoder that costs next to nothing: time is that of everything else. Peak: resident, of the process "
        "and, looked at every second, of those that parse."
    )
    header = ("what", "seconds", "processor seconds", "peak", "outcome")
    return Table("Many files, and a huge one", header, rows, note)


def _many(work: Path) -> Iterator[list[str]]:
    folder = work / "many"
    _write_many(folder)
    yield _row(f"{_FILES:,} files in {_FOLDERS} folders", folder, work / "many.index")
    yield _row("the same again", folder, work / "many.index")
    (folder / "folder-007" / "note-000007.txt").write_text("This note is another one now.", encoding="utf-8")
    yield _row("one of them changed", folder, work / "many.index")


def _huge(work: Path) -> Iterator[list[str]]:
    folder = work / "huge"
    _write_huge(folder / "huge.txt")
    size = f"a text file of {_HUGE_BYTES // 1_000_000} MB"
    yield _row(f"{size}, limits as they are", folder, work / "huge.index")
    yield _row(f"{size}, limits raised", folder, work / "huge.index", limits="raised")


def _row(what: str, folder: Path, index: Path, *, limits: str = "default") -> list[str]:
    part = Part.start(__name__, "ingest", str(folder), str(index), "prepared", limits)
    workers = max((others for _, others in watch(part)), default=0)
    peak = f"{part.result['peak'] / 1e6:.0f} + {workers / 1e6:.0f} MB"
    return [what, f"{part.seconds:.0f}", f"{part.result['cpu_seconds']:.0f}", peak, _outcome(part.result)]


def _outcome(report: Mapping[str, Any]) -> str:
    counts = (f"{report[name]:,} {name}" for name in ("added", "changed", "unchanged") if report[name])
    return "; ".join([", ".join(counts), *report["failures"][:1]]).lstrip("; ")


# ---- what it is measured on ------------------------------------------------------------------------------------------


def _copy_some(folder: Path) -> int:
    root = data_folder("corpora", "hf_docs")
    files = sorted(path for path in root.rglob("*") if path.is_file())[::_EVERY]
    for path in files:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return len(files)


def _save_texts(documents: Path, index: Path, target: Path) -> None:
    """What the encoder reads of documents, in their order."""
    part = Part.start(__name__, "ingest", str(documents), str(index), "real")
    watch(part)
    with Store.open(index) as store:
        texts = [passage.encoded for passage in store.passages()]
    shutil.rmtree(index)
    target.write_text(json.dumps(texts), encoding="utf-8")


def _paragraphs() -> list[str]:
    from pydoc_data.topics import topics

    return [paragraph for text in topics.values() for paragraph in text.split("\n\n") if paragraph.strip()]


def _write_many(folder: Path) -> None:
    chance, words = random.Random(0), " ".join(_paragraphs()).split()  # noqa: S311 - the same files every time
    for number in range(_FILES):
        path = folder / f"folder-{number % _FOLDERS:03}" / f"note-{number:06}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        first = chance.randrange(len(words) - 400)
        text = f"note {number}\n" + " ".join(words[first : first + 400])
        path.write_text(text[: chance.randint(200, 2000)], encoding="utf-8")


def _write_huge(path: Path) -> None:
    chance, paragraphs, written = random.Random(1), _paragraphs(), 0  # noqa: S311 - the same file every time
    path.parent.mkdir()
    with path.open("w", encoding="utf-8") as file:
        while written < _HUGE_BYTES:
            written += len(paragraph := f"Part {written}. {chance.choice(paragraphs)}\n\n")
            file.write(paragraph)


# ---- parts in processes of their own ---------------------------------------------------------------------------------


def _real_encoder() -> Encoder:
    cache = load_config({}, process_environment(), Path.cwd()).cache
    encoder = load_encoder(BUNDLED_NAME, cache=cache)
    list(encoder.encode(["loaded"]))
    return encoder


def _settings(encoder: Encoder) -> Settings:
    workers = max(1, (os.cpu_count() or 1) // 2)
    return Settings(
        encoder.spec, ChunkingSpec(), max_file_bytes=50_000_000, created_at="", versions={}, parse_workers=workers
    )


def _ingest(folder: str, index: str, kind: str, limits: str = "default") -> None:
    encoder = _real_encoder() if kind == "real" else PreparedEncoder({})
    settings = _settings(encoder)
    if limits == "raised":
        settings = replace(settings, max_file_bytes=1_000_000_000, parsing=_RAISED)

    def work() -> Mapping[str, object]:
        report = ingest(
            [Path(folder)], folder=Path(index), settings=settings, make_encoder=lambda: encoder, report=_silent
        )
        counts = {name: len(getattr(report, name)) for name in ("added", "changed")}
        failures = [f"{one.source}: {one.reason}; {one.advice}" for one in report.failures]
        return {**counts, "unchanged": report.unchanged, "tokens": report.tokens, "failures": failures}

    serve(work)


def _encode(texts: str) -> None:
    inputs = json.loads(Path(texts).read_text(encoding="utf-8"))
    encoder = _real_encoder()

    def work() -> Mapping[str, object]:
        with one_blas_thread():
            return {"tokens": sum(len(encoded.ids) for encoded in encoder.encode(inputs)), "texts": len(inputs)}

    serve(work)


def _silent(_: Progress) -> None:
    return


if __name__ == "__main__":
    if sys.argv[1] == "ingest":
        _ingest(*sys.argv[2:])
    else:
        _encode(sys.argv[2])
