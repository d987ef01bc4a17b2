"""What every command shares: the session, the flags, the consoles, and how errors become exit codes."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from app.config import Config, load_config, process_environment
from retrieval.errors import ConfigError, MissingPackageError, RagError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console
    from rich.table import Table

    from app.pipeline import Pipeline
    from retrieval.filters import Filter

# Paths are plain text for Typer: its own kind of path refuses "-", and app.config reads the others.
FAILED, USAGE, INTERRUPTED = 1, 2, 130
UNCHANGED = "the index was not changed"

ConfigFlag = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="Settings file instead of ./rag.toml.", show_default=False),
]
IndexFlag = Annotated[
    str | None, typer.Option("--index", metavar="DIR", help="Folder of the index (rag doctor shows the usual one).")
]
ProfileFlag = Annotated[str | None, typer.Option("--profile", metavar="NAME", help="auto, embedded or gpu.")]
EncoderFlag = Annotated[
    str | None, typer.Option("--encoder", metavar="MODEL", help="Model name or folder instead of the profile's own.")
]
DeviceFlag = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]
ReaderFlag = Annotated[str | None, typer.Option("--reader", metavar="NAME", help="auto, extractive, zephyr or server.")]
TopKFlag = Annotated[str | None, typer.Option("--top-k", "-k", metavar="N", help="How many passages to look at.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

_NARROW = "Narrow the search"
SourceFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="GLOB",
        help="Only documents whose path matches: docs/**/*.md, notes/, !drafts/. Several are alternatives.",
        rich_help_panel=_NARROW,
    ),
]
TypeFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help="Only documents of a type: pdf, text/html, text/*. Several are alternatives.",
        rich_help_panel=_NARROW,
    ),
]
WhereFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="COND",
        help="Only documents whose metadata says so: status=final, version>=2, author~smith. All must hold.",
        rich_help_panel=_NARROW,
    ),
]
AfterFlag = Annotated[
    str | None,
    typer.Option("--after", metavar="DATE", help="Only documents dated on this day or later.", rich_help_panel=_NARROW),
]
BeforeFlag = Annotated[
    str | None,
    typer.Option("--before", metavar="DATE", help="Only documents dated earlier.", rich_help_panel=_NARROW),
]
PageFlag = Annotated[
    str | None,
    typer.Option("--page", metavar="PAGES", help="Only these pages: 3, 3-7, -7 or 3-.", rich_help_panel=_NARROW),
]
MaxPerDocumentFlag = Annotated[
    str | None, typer.Option("--max-per-document", metavar="N", help="At most so many passages of a document; 0: any.")
]
DiversityFlag = Annotated[
    str | None, typer.Option("--diversity", metavar="SHARE", help="From 0, the best, to 1, the most different.")
]
NeighboursFlag = Annotated[
    bool | None, typer.Option("--neighbours/--no-neighbours", help="Give each passage with those around it.")
]


def filter_of(
    *,
    source: list[str] | None,
    type_: list[str] | None,
    where: list[str] | None,
    after: str | None,
    before: str | None,
    page: str | None,
) -> Filter | None:
    """The filter that the flags ask for; None where none of them was given. Raises ConfigError."""
    from retrieval.filters import parse_filter

    wanted = parse_filter(
        sources=source or (), types=type_ or (), where=where or (), after=after, before=before, pages=page
    )
    return None if wanted.is_empty else wanted


def require_question(question: str) -> None:
    """Raise a usage error on a question without a character that can be seen."""
    if not any(character.isprintable() and not character.isspace() for character in question):
        raise typer.BadParameter("the question is blank", param_hint="QUESTION")


def require_packages(*names: str) -> None:
    """Raise MissingPackageError where a package of the server cannot be imported."""
    try:
        for name in names:
            import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            f"{error.name} is not installed; run: make setup, or pip install 'cited-rag[server]'"
        ) from error


def note_nothing(filters: Filter | None) -> None:
    """Say on standard error that nothing was found, and whether a filter left nothing to search."""
    if filters is None:
        note("nothing found")
    else:
        note(f"no document matches {filters.describe()}; rag index list shows what there is")


def _open_pipeline(config: Config) -> Pipeline:
    from app.pipeline import Pipeline

    return Pipeline(config, note=note)


@dataclass(slots=True)
class Session:
    """What a run of the program stands on. Typer carries it as `context.obj`; tests put their own there.

    `kept` is what to tell somebody who interrupts: what became of the data.
    """

    environ: Mapping[str, str] = field(default_factory=process_environment)
    cwd: Path = field(default_factory=Path.cwd)
    open_pipeline: Callable[[Config], Pipeline] = _open_pipeline
    kept: str = UNCHANGED

    def config(self, **flags: object) -> Config:
        """The settings of this run."""
        return load_config(flags, self.environ, self.cwd)

    @contextmanager
    def pipeline(self, config: Config, *, announce: bool = True) -> Iterator[Pipeline]:
        """An open pipeline, closed at the end; `announce` prints which profile was chosen and why."""
        pipeline = self.open_pipeline(config)
        try:
            if announce:
                note(str(pipeline.choice))
            yield pipeline
            for notice in pipeline.notices():
                note(notice)
        finally:
            pipeline.close()


class RagGroup(TyperGroup):
    """The root of the command line: turns errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. 1 = failed, 2 = usage or settings, 130 = interrupted."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, so that a closed pipe is met where it is handled
        except ConfigError as error:
            _fail(str(error), USAGE)
        except RagError as error:
            _fail(str(error), FAILED)
        except BrokenPipeError:
            raise  # whoever read our output has seen enough; Typer leaves in silence
        except OSError as error:
            _fail(_describe(error), FAILED)
        except KeyboardInterrupt:
            kept = ctx.obj.kept if isinstance(ctx.obj, Session) else UNCHANGED
            complain("interrupted", kept)
            raise typer.Exit(INTERRUPTED) from None
        return result


def _describe(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"


def _fail(message: str, code: int) -> NoReturn:
    complain("error", message)
    raise typer.Exit(code) from None


def stdout() -> Console:
    """The console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """The console for everything else."""
    return _console(sys.stderr)


def _console(stream: Any) -> Console:
    return _console_of(getattr(stream, "rich_proxied_file", stream))


@lru_cache(maxsize=2)
def _console_of(stream: Any) -> Console:
    """One console a stream: what is printed while a spinner turns must know of it."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def print_json(record: Mapping[str, object]) -> None:
    """One object on one line, sent at once."""
    from app.cli.wire import dumps

    print(dumps(record, encoding=sys.stdout.encoding), flush=True)


def note(message: str) -> None:
    """A remark on standard error, on one line."""
    from app.cli.text import visible

    stderr().print(visible(message), style="dim", soft_wrap=True)


def complain(word: str, message: str) -> None:
    """`word: message` on standard error, on one line whatever the message holds."""
    from rich.text import Text

    from app.cli.text import visible

    one_line = " ".join(message.splitlines())
    stderr().print(Text.assemble((f"{word}:", "bold red"), " ", visible(one_line)), soft_wrap=True)


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """A calm table: bold heads, no lines; text is folded, never cut. Cells must be safe (`visible`) Text."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", highlight=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def place(source: str, line: int, page: int | None, heading: tuple[str, ...], *, within: str = "") -> tuple[str, str]:
    """`file.md:42` (and the page, where there are pages) and `  Heading > Sub` or nothing, both safe to show.

    within: what stands for the line in a document whose lines nobody sees.
    """
    from app.cli.text import visible

    where = visible(source) + (within or f":{line}") + ("" if page is None else f" page {page}")
    path = " > ".join(visible(title) for title in heading)
    return where, f"  {path}" if path else ""
