"""`rag ask`: one question, or many in one process, each answered with citations or an abstention."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, cast

import typer

from app.cli.common import (
    FAILED,
    AfterFlag,
    BeforeFlag,
    ConfigFlag,
    DeviceFlag,
    DiversityFlag,
    EncoderFlag,
    IndexFlag,
    JsonFlag,
    MaxPerDocumentFlag,
    NeighboursFlag,
    PageFlag,
    ProfileFlag,
    ReaderFlag,
    Session,
    SourceFlag,
    TopKFlag,
    TypeFlag,
    WhereFlag,
    complain,
    filter_of,
    note_nothing,
    place,
    print_json,
    require_question,
    stderr,
    stdout,
    table,
)
from app.cli.text import visible
from reader.records import LEAST_SUPPORT
from retrieval.errors import RagError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.text import Text

    from app.cli.lines import Line
    from app.pipeline import Pipeline
    from reader.records import Answer, Citation, Sentence, WordMatch
    from retrieval.filters import Filter

MARKED_SIMILARITY = 0.5
"""Words of a quote are marked from here on; below, the best match of a question word is rarely a match to a person."""


def ask(
    context: typer.Context,
    *,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="One question.", show_default=False)
    ] = None,
    questions: Annotated[
        str | None,
        typer.Option("--questions", metavar="FILE", help="Questions, one a line; - reads standard input."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show which words matched which.")] = False,
    as_json: JsonFlag = False,
    top_k: TopKFlag = None,
    source: SourceFlag = None,
    type_: TypeFlag = None,
    where: WhereFlag = None,
    after: AfterFlag = None,
    before: BeforeFlag = None,
    page: PageFlag = None,
    max_per_document: MaxPerDocumentFlag = None,
    diversity: DiversityFlag = None,
    neighbours: NeighboursFlag = None,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    reader: ReaderFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Answer from the documents, with citations, or say that they hold no answer."""
    session: Session = context.obj
    if (question is None) == (questions is None):
        raise typer.BadParameter("give one question, or many with --questions FILE", param_hint="QUESTION")
    if question is not None:
        require_question(question)
    filters = filter_of(source=source, type_=type_, where=where, after=after, before=before, page=page)
    settings = session.config(
        config=config, index=index, profile=profile, encoder=encoder, device=device, reader=reader, top_k=top_k,
        max_per_document=max_per_document, diversity=diversity, neighbours=neighbours,
    )  # fmt: skip
    with session.pipeline(settings) as pipeline:
        desk = _Desk(pipeline, top_k=settings.top_k, filters=filters, explain=explain, as_json=as_json)
        if question is not None:
            desk.answer(question)
        elif questions is not None and not desk.answer_all(questions):
            raise typer.Exit(FAILED)


class _Desk:
    """Answers questions and prints each as soon as it is answered."""

    def __init__(self, pipeline: Pipeline, *, top_k: int, filters: Filter | None, explain: bool, as_json: bool) -> None:
        self._pipeline = pipeline
        self._top_k = top_k
        self._filters = filters
        self._explain = explain
        self._as_json = as_json

    def answer(self, question: str) -> None:
        """One question; on a terminal the answer is shown while it is written."""
        from app.cli.progress import waiting

        if not self._as_json and stdout().is_terminal:
            stream = self._pipeline.ask_stream(question, k=self._top_k, filters=self._filters)
            self._remark(print_stream(stream, explain=self._explain))
            return
        with waiting(stderr(), "reading"):
            answer = self._pipeline.ask(question, k=self._top_k, filters=self._filters)
        self._print(answer)

    def answer_all(self, source: str) -> bool:
        """Every line that is not blank. True if none failed; one that fails is reported and the rest is answered.

        A file is read ahead, as far as the reader answers together; standard input is answered as it arrives.
        """
        from app.cli.lines import read_lines

        failed = 0
        lines = (line for line in read_lines(source) if line.text.strip() or line.problem is not None)
        while group := list(islice(lines, 1 if source == "-" else self._pipeline.at_once)):
            failed += self._answer_group(group)
        if failed:
            complain("error", f"{failed:,} of the questions failed")
        return failed == 0

    def _answer_group(self, lines: Sequence[Line]) -> int:
        """Answer lines together, in order. Returns how many failed."""
        from app.cli.progress import waiting

        with waiting(stderr(), "reading"):
            asked = [line.text for line in lines if line.problem is None]
            answers = iter(self._pipeline.ask_many(asked, k=self._top_k, filters=self._filters))
        failed = 0
        for line in lines:
            answer = line.problem or next(answers)
            if not self._as_json:
                stdout().print(f"\n? {visible(line.text)}", style="bold", soft_wrap=True)
            if isinstance(answer, str | RagError):
                failed += 1
                self._report(line.text, str(answer))
            else:
                self._print(answer)
        return failed

    def _print(self, answer: Answer) -> None:
        if self._as_json:
            from app.cli.wire import answer_record

            print_json(answer_record(answer, explain=self._explain))
        else:
            print_answer(answer, stdout(), explain=self._explain)
        self._remark(answer)

    def _remark(self, answer: Answer) -> None:
        if self._filters is not None and not answer.hits:
            note_nothing(self._filters)

    def _report(self, question: str, problem: str) -> None:
        if self._as_json:
            print_json({"question": question, "error": problem})
        else:
            complain("error", f"{question[:100]}: {problem}" if question else problem)


def print_stream(stream: Generator[str, None, Answer], *, explain: bool = False) -> Answer:
    """Show an answer while it is written, then what checking it found, and its sources."""
    from app.cli.progress import waiting

    console = stdout()
    with waiting(stderr(), "reading"):
        try:
            first = next(stream)
        except StopIteration as end:  # a reader that writes nothing piece by piece
            print_answer(end.value, console, explain=explain)
            return cast("Answer", end.value)
    shown = []
    try:
        piece = first
        while True:
            shown.append(piece)
            console.print(visible(piece, one_line=False), end="", soft_wrap=True)
            piece = next(stream)
    except StopIteration as end:
        answer: Answer = end.value
    finally:
        console.print()  # what follows, be it an error, begins on a line of its own
    print_answer(answer, console, explain=explain, shown="".join(shown).strip())
    return answer


def print_answer(answer: Answer, console: Console, *, explain: bool = False, shown: str = "") -> None:
    """The answer, what checking found, then every citation with its quote; for an abstention, where to look instead.

    An answer that is nothing but its quotes is shown once, as quotes. `shown` is what was printed already.
    """
    quotes = " ".join(f"{citation.quote} [{citation.marker}]" for citation in answer.citations)
    if answer.abstention == "verification":
        withdrawn = "withdrawn, nothing in the passages bears it out"
        console.print(withdrawn if shown else f"{withdrawn}: {_written(answer)}", style="red", soft_wrap=True)
    if answer.abstention == "model" and not shown and (said := _written(answer)) != answer.text:
        console.print(f"the model wrote: {said}", style="dim", soft_wrap=True)
    if answer.abstained or (not shown and answer.text != quotes):
        console.print(_answer_text(answer), soft_wrap=not console.is_terminal)
    for line in remarks(answer):
        console.print(line, style="yellow", soft_wrap=not console.is_terminal)
    for number, citation in enumerate(answer.citations):
        _print_citation(citation, answer.matches, console, first=number == 0 and answer.text == quotes)
    if answer.abstained and answer.hits:
        console.print()
        console.print("nearest passages, which may not answer it:", style="dim", soft_wrap=True)
        for hit in answer.hits[:3]:
            where, heading = place(hit.source, hit.line, hit.page, hit.heading)
            console.print(f"    {where}{heading}", style="dim", soft_wrap=True)
    if explain:
        _print_matches(answer, console)


_REMARKS = {
    "unsupported": "not borne out by what it cites",
    "contradicted-number": "a number differs from what it cites",
    "uncited": "without a source",
}


def remarks(answer: Answer) -> list[str]:
    """What a person must know of a written answer: sentences that are not borne out, and what was changed or cut."""
    lines = [line for sentence in answer.sentences for line in _remarks_on(sentence, answer)]
    if answer.written and not answer.written.complete:
        lines.append("! the answer was cut at its longest; raise max_answer_tokens")
    if answer.written and answer.written.removed_markers:
        numbers = ", ".join(map(str, answer.written.removed_markers))
        lines.append(f"! removed citations of passages that do not exist: {numbers}")
    without_room = set(answer.prompt.dropped) - set(answer.prompt.beside_the_point) if answer.prompt else set()
    if answer.prompt and (without_room or answer.prompt.cut):
        parts = [
            f"{len(hits)} {word}"
            for hits, word in ((without_room, "left out"), (answer.prompt.cut, "shown in part"))
            if hits
        ]
        lines.append(f"! passages the model had no room for: {', '.join(parts)}; raise window or lower top_k")
    return lines


def _remarks_on(sentence: Sentence, answer: Answer) -> Iterator[str]:
    words = visible(answer.text[sentence.start : sentence.end])
    if sentence.added:
        yield f"+ the source was found by checking, the model named none: {words}"
    elif sentence.label in _REMARKS:
        yield f"! {_REMARKS[sentence.label]}{f', but by [{sentence.instead}]' if sentence.instead else ''}: {words}"
    else:
        each = zip(sentence.markers, sentence.alone, strict=True)
        idle = "".join(f"[{marker}]" for marker, support in each if support < LEAST_SUPPORT)
        if idle:
            yield f"! {idle} does not bear this out, the others do: {words}"


def _written(answer: Answer) -> str:
    return visible(answer.written.text.strip()) if answer.written else ""


def _answer_text(answer: Answer) -> Text:
    from app.cli.text import marked

    text = marked(answer.text, (), style="yellow" if answer.abstained else "")
    for citation in answer.citations:
        text.highlight_words([f"[{citation.marker}]"], "bold cyan")
    return text


def _print_citation(
    citation: Citation, matches: tuple[WordMatch, ...], console: Console, *, first: bool = False
) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from app.cli.text import marked

    where, heading = place(citation.source, citation.line, citation.page, citation.heading, within=_within(citation))
    marks = [
        (match.start - citation.start, match.end - citation.start)
        for match in matches
        if match.marker == citation.marker
        and match.similarity >= MARKED_SIMILARITY
        and citation.start <= match.start < match.end <= citation.end
    ]
    quote = marked(citation.quote, marks)
    if not first:
        console.print()
    head = Text.assemble((f"[{citation.marker}]", "bold cyan"), " ", (where, "cyan"), (heading, "dim"))
    console.print(head, soft_wrap=True)
    if console.is_terminal:
        console.print(Padding(quote, (0, 0, 0, 4), expand=False))
    else:
        for line in quote.split("\n"):
            console.print("    ", line, sep="", soft_wrap=True)


def _within(citation: Citation) -> str:
    """` slide 3`, ` sheet "Costs" row 12`: where in a document that has neither pages nor lines of its own."""
    parts = [f" slide {citation.slide}"] if citation.slide is not None else []
    parts += [f' sheet "{visible(citation.sheet)}"'] if citation.sheet is not None else []
    return "".join([*parts, *([f" row {citation.row}"] if citation.row is not None else [])])


def _print_matches(answer: Answer, console: Console) -> None:
    from rich.text import Text

    shown = table("", "question", "matched", "similarity", "weight", numbers=("similarity", "weight"))
    for match in sorted(answer.matches, key=lambda match: (match.marker, match.question_start)):
        asked = answer.question[match.question_start : match.question_end]
        strong = "" if match.similarity >= MARKED_SIMILARITY else "dim"
        shown.add_row(
            f"[{match.marker}]",
            Text(visible(asked)),
            Text(visible(_matched_text(answer, match)), style=strong),
            Text(f"{match.similarity:.2f}", style=strong),
            f"{match.weight:.2f}",
        )
    console.print()
    console.print(f"evidence {answer.evidence:.2f}", style="bold", soft_wrap=True)
    if answer.matches:
        console.print(shown)


def _matched_text(answer: Answer, match: WordMatch) -> str:
    for citation in answer.citations:
        if citation.marker == match.marker and citation.start <= match.start and match.end <= citation.end:
            return citation.quote[match.start - citation.start : match.end - citation.start]
    return f"characters {match.start} to {match.end}"
