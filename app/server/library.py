"""Documents that come and go while the server answers: uploads, ingest runs, deletions, one at a time.

An ingest runs in a process of its own, so that its memory and Python's lock stay apart from answering; what it prints
is followed. Runs asked for while another one works become one run. Knows files, processes and the index; nothing of
HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from app.server.lanes import BusyError
from app.server.uploads import Stamp, UploadError, Uploads
from ingest.records import Place, Progress
from retrieval.errors import ChangedError, ConfigError, IndexBusyError, IndexMissingError, RagError

if TYPE_CHECKING:
    from app.config import Config
    from app.pipeline import Pipeline
    from app.server.engine import Engine
    from retrieval.receipt import Receipt
    from retrieval.store import DocumentRow

JOBS_KEPT = 20
MAX_PATHS = 500
"""Of uploads that are named one by one; more are found again by looking through their folder."""
MAX_LINE_BYTES = 64_000_000
"""Of what an ingest prints: its report names each document that is new, some 60 bytes each."""
PLACES_SHOWN = 20
END_SECONDS = 20.0
"""How long an ingest may take to end after the text at hand."""

_SAID_BYTES = 2_000
_NICE = 10
"""Answers go first: an ingest takes the processor time that they leave."""

log = logging.getLogger("rag.server")

State = Literal["waiting", "running", "done", "failed"]


class PartOfFileError(RagError):
    """A document is inside an uploaded file that holds others too."""


@dataclass(frozen=True, slots=True)
class JobState:
    """How an ingest run stands. `report` is the object of `rag ingest --json`, of a run that is done."""

    job: str
    state: State
    paths: tuple[str, ...]
    prune: bool
    asked_at: str
    progress: Progress | None = None
    report: Mapping[str, object] | None = None
    problem: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in {"done", "failed"}


class Job:
    """An ingest run that waits, runs, or has ended. Belongs to the event loop."""

    def __init__(self, paths: Sequence[Path], *, prune: bool, asked_at: str) -> None:
        self.now = JobState(secrets.token_hex(8), "waiting", tuple(map(str, paths)), prune, asked_at)
        self._news, self._is_left = asyncio.Event(), False

    def add(self, paths: Iterable[Path], otherwise: Path) -> None:
        """Take on more paths before it begins; where they become too many, a folder in place of those in it."""
        wanted = dict.fromkeys([*self.now.paths, *map(str, paths)])
        if len(wanted) > MAX_PATHS:
            wanted = dict.fromkeys([*(each for each in wanted if Path(each).parent != otherwise), str(otherwise)])
        self.become(paths=tuple(wanted))

    def become(self, **news: Any) -> None:
        """Change its state, and wake those who follow it."""
        self.now = replace(self.now, **news)
        self._wake()

    def leave(self) -> None:
        """Nobody works on it any more: let those who follow it go."""
        self._is_left = True
        self._wake()

    async def follow(self) -> AsyncGenerator[JobState]:
        """Its state now, and then the newest one whenever there is news, to its end or the server's."""
        while True:
            news = self._news
            yield self.now
            if self.now.has_ended or self._is_left:
                return
            await news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be deleted. file: the uploaded file that goes with it, as it was seen; None: it is from elsewhere.

    rows: the documents, all those of the file; failed: what could not be read of it.
    """

    rows: tuple[DocumentRow, ...]
    failed: tuple[Place, ...] = ()
    file: str | None = None
    seen: Stamp | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """What is gone. file: the uploaded file that was removed too."""

    doc_ids: tuple[str, ...]
    receipt: Receipt
    file: str | None


class Library:
    """The documents of one server."""

    def __init__(self, config: Config, engine: Engine, *, flags: Mapping[str, object], folder: Path) -> None:
        """flags, folder: what the config was made from beside the environment."""
        self._config, self._engine, self._folder = config, engine, folder
        self._flags = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        self.uploads = Uploads(config.uploads)
        self._jobs: deque[Job] = deque()
        self._joined: dict[bool, Job] = {}  # by prune: those that wait and may take on more
        self._turn = asyncio.Lock()  # who writes to the index; in the order of asking
        self._deleting = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._process: Process | None = None
        self._is_closing = False

    async def start(self) -> None:
        """Take up what an earlier server was given and had no time for."""
        try:
            removed = await asyncio.to_thread(self.uploads.tidy)
            files = await asyncio.to_thread(self.uploads.files)
        except UploadError as error:  # whoever uploads is told the same
            log.warning("%s", error)
            return
        if removed:
            self._begin(self._finish_removals(removed))
        if files:
            self.ingest([self.uploads.folder])

    def stop(self) -> None:
        """Take up no more, let those go who follow a run, and have it end, keeping what is complete."""
        if self._is_closing:
            return  # to interrupt it twice would end it at once
        self._is_closing = True
        for job in self._jobs:
            job.leave()
        if self._process is not None:
            _interrupt(self._process)

    async def close(self) -> None:
        """Stop, and wait for the end."""
        self.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=END_SECONDS)
            with suppress(ProcessLookupError):
                if late and self._process is not None:
                    self._process.kill()
            await asyncio.gather(*late, return_exceptions=True)

    # ---- ingest ------------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[JobState]:
        """The last ingest runs, the newest first."""
        return [job.now for job in reversed(self._jobs)]

    def job(self, name: str) -> Job | None:
        """One of them."""
        return next((job for job in self._jobs if job.now.job == name), None)

    def ingest(self, paths: Sequence[Path], *, prune: bool = False) -> Job:
        """Ask for a run over files and folders; one that waits already takes them on."""
        from app.pipeline import now

        if (waiting := self._joined.get(prune)) is not None:
            waiting.add(paths, self.uploads.folder)
            return waiting
        job = Job(paths, prune=prune, asked_at=now())
        self._joined[prune] = job
        self._jobs.append(job)
        while len(self._jobs) > JOBS_KEPT and self._jobs[0].now.has_ended:
            self._jobs.popleft()
        self._begin(self._work_on(job))
        if self._is_closing:
            job.leave()
        return job

    async def known_paths(self) -> list[Path]:
        """What can be ingested again: folders that were ingested whole, files that were named, and the uploads."""
        try:
            known = await self._engine.look(lambda pipeline: [path for path in pipeline.ingested() if _is_there(path)])
        except IndexMissingError:
            known = []
        elsewhere = [path for path in known if not path.is_relative_to(self.uploads.folder)]
        return [*elsewhere, *([self.uploads.folder] if await asyncio.to_thread(self.uploads.files) else [])]

    async def allowed(self, paths: Sequence[str]) -> list[Path]:
        """For each path the known one it is in: alone it would be indexed a second time, as a folder of its own.

        Raises ConfigError on one that nobody has ingested before.
        """
        known = list(dict.fromkeys([*await self.known_paths(), self.uploads.folder]))
        return list(dict.fromkeys(await asyncio.to_thread(lambda: [_known(path, known) for path in paths])))

    async def _work_on(self, job: Job) -> None:
        async with self._turn:
            if self._is_closing:
                return
            self._joined = {prune: other for prune, other in self._joined.items() if other is not job}
            job.become(state="running")
            try:
                job.become(state="done", report=await self._run(job), progress=None)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who follow the run are told
                if self._is_closing:
                    return  # it was interrupted; the next start takes it up
                job.become(state="failed", problem=str(error) or type(error).__name__)
                log.warning("ingest %s failed: %s", job.now.job, type(error).__name__)

    async def _run(self, job: Job) -> Mapping[str, object]:
        """The report of an ingest in a process of its own. Raises RagError, OSError."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "app", "ingest", "--events", *self._flags),
            *(["--prune"] if job.now.prune else []),
            *("--", *job.now.paths),
            cwd=self._folder,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # a Ctrl-C in the terminal is for the server, which tells this process once
        )
        self._process = process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        if self._is_closing:
            _interrupt(process)
        if process.stdout is None or process.stderr is None:
            raise AssertionError("both are pipes")
        saying = asyncio.ensure_future(_last_of(process.stderr))
        try:
            report = await _followed(process.stdout, job)
            said = await saying
            status = await process.wait()
        finally:
            self._process = None
            saying.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if report is None:
            raise RagError(f"the ingest ended without a report (exit status {status}){said and ': '}{said}")
        return report

    # ---- deletion ----------------------------------------------------------------------------------------------------

    async def find(self, doc_id: str) -> Wanted | None:
        """What deleting this document, or this upload that could not be read, takes away."""
        with suppress(IndexMissingError):
            return await self._engine.look(lambda pipeline: self._wanted(pipeline, doc_id))
        return None

    async def delete(self, doc_id: str, *, compacted: bool = False, whole: bool = False) -> Deleted | None:
        """Remove a document from the index; if it was uploaded, its file as well. None where there is no such document.

        whole: although its file holds others, which go with it. Raises PartOfFileError, IndexBusyError, ChangedError.
        """
        if self._deleting >= self._config.queue:
            raise BusyError(1)
        self._deleting += 1
        try:
            wanted = await self.find(doc_id)
            if wanted is None:
                return None
            if len(wanted.rows) > 1 and not whole:
                raise PartOfFileError(
                    f"this document is one of {len(wanted.rows):,} in the file '{wanted.file}', which can only go as a"
                    " whole; delete it with whole=true"
                )
            self._joined.clear()  # what is asked for from now on is done after this
            try:
                async with asyncio.timeout(self._config.request_seconds):
                    await self._turn.acquire()
            except TimeoutError:
                raise IndexBusyError("documents are being ingested; delete it when that has ended") from None
            if self._is_closing:
                self._turn.release()
                raise IndexBusyError("the server is being ended; delete it when it has been started again")
            deleting = self._begin(asyncio.to_thread(self._delete, doc_id, wanted.seen, compacted))
            deleting.add_done_callback(lambda _: self._turn.release())
            return await asyncio.shield(deleting)  # once begun it goes on, whoever has given up
        finally:
            self._deleting -= 1

    def _delete(self, doc_id: str, seen: Stamp | None, compacted: bool) -> Deleted:
        """The file first: what is in its folder is what the next ingest brings back."""
        pipeline = self._engine.pipeline
        wanted = self._wanted(pipeline, doc_id)
        if wanted is None:
            raise ChangedError("the document is gone already")
        doc_ids = tuple(row.doc_id for row in wanted.rows)
        if wanted.file is None:
            return Deleted(doc_ids, pipeline.forget(doc_ids, compacted=compacted), None)
        self.uploads.begin_removal(wanted.file, seen)
        try:
            receipt = pipeline.forget(doc_ids, failed=wanted.failed, compacted=compacted)
        except BaseException:
            if not doc_ids or self._holds_any(pipeline, doc_ids):
                self.uploads.put_back(wanted.file)
            else:  # they are gone, and what failed came after
                self.uploads.finish_removal(wanted.file)
            raise
        self.uploads.finish_removal(wanted.file)
        return Deleted(doc_ids, receipt, wanted.file)

    def _holds_any(self, pipeline: Pipeline, doc_ids: Sequence[str]) -> bool:
        try:
            return any(row.doc_id in doc_ids for row in pipeline.documents())
        except RagError:  # nobody knows
            return True

    def _wanted(self, pipeline: Pipeline, doc_id: str) -> Wanted | None:
        from ingest.files import document_id

        for row in pipeline.documents():
            if row.doc_id == doc_id:
                file = self.uploads.name_of(row.root, row.source)
                return self._whole(pipeline, file) if file else Wanted((row,))
        for one in pipeline.failures():
            file = self.uploads.name_of(one.root, one.source)
            if file and document_id(one.root, one.source) == doc_id:
                return self._whole(pipeline, file)
        return None

    def _whole(self, pipeline: Pipeline, file: str) -> Wanted:
        """An uploaded file with all that the index knows of it."""
        name_of = self.uploads.name_of
        rows = tuple(row for row in pipeline.documents() if name_of(row.root, row.source) == file)
        failed = tuple((one.root, one.source) for one in pipeline.failures() if name_of(one.root, one.source) == file)
        return Wanted(rows, failed, file, self.uploads.stamp(file))

    async def _finish_removals(self, files: Sequence[str]) -> None:
        """Complete what a kill interrupted."""
        async with self._turn:
            for file in files:
                try:
                    await asyncio.to_thread(self._finish_removal, file)
                except RagError as error:  # the next start tries again
                    log.warning("a deleted upload could not be taken out of the index: %s", type(error).__name__)

    def _finish_removal(self, file: str) -> None:
        pipeline = self._engine.pipeline
        if self.uploads.stamp(file) is None:  # else it was uploaded anew, and ingest replaces what there was
            with suppress(IndexMissingError):
                wanted = self._whole(pipeline, file)
                pipeline.forget([row.doc_id for row in wanted.rows], failed=wanted.failed)
        self.uploads.finish_removal(file)

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _interrupt(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)


async def _followed(lines: asyncio.StreamReader, job: Job) -> Mapping[str, object] | None:
    """What an ingest reports at its end; how far it is becomes known meanwhile. Raises RagError on its error."""
    report: Mapping[str, object] | None = None
    try:
        while line := await lines.readline():
            said = json.loads(line)
            if "progress" in said:
                job.become(progress=Progress(**said["progress"]))
            elif "error" in said:
                raise RagError(str(said["error"]))
            else:
                report = said["report"]
    except (ValueError, TypeError, KeyError) as error:  # ValueError: a line too long, or no JSON
        raise RagError(f"the ingest said what cannot be understood ({type(error).__name__})") from error
    return report


async def _last_of(stream: asyncio.StreamReader) -> str:
    """The last of what a process complains of, on one line."""
    last = b""
    while data := await stream.read(_SAID_BYTES):
        last = (last + data)[-_SAID_BYTES:]
    return " ".join(last.decode("utf-8", "replace").split())


def _known(path: str, known: Sequence[Path]) -> Path:
    """The innermost of what is known that a path is in, links resolved. Raises ConfigError."""
    if not Path(path).is_absolute():
        raise ConfigError("a path to ingest must begin at the root of the file system")
    try:
        real = Path(os.path.realpath(path))
    except ValueError:
        raise ConfigError("a path to ingest holds characters that no file name can hold") from None
    around = [each for each in known if real.is_relative_to(each)]
    if not around:
        shown = ", ".join(str(each) for each in known[:PLACES_SHOWN])
        more = f" and {len(known) - PLACES_SHOWN:,} others" if len(known) > PLACES_SHOWN else ""
        raise ConfigError(
            f"'{path}' is not within what was ingested before: {shown}{more}; what is new is uploaded, or named on the"
            " command line: rag ingest PATH"
        )
    if not _is_there(real):
        raise ConfigError(f"there is no '{path}'; name what is there, or all by leaving the paths out")
    return max(around, key=lambda each: len(each.parts))


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - a path that may not be looked at, or is too long, is not there
