"""`rag chat`: a conversation about the documents, with follow-up questions, kept and resumed."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.ask import exhausted, print_answer, print_stream
from app.cli.common import (
    ConfigFlag,
    DeviceFlag,
    EncoderFlag,
    IndexFlag,
    ProfileFlag,
    ReaderFlag,
    Session,
    TopKFlag,
    complain,
    note,
    place,
    stdout,
)
from app.cli.text import visible
from retrieval.errors import RagError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.chat import Conversation
    from app.pipeline import Pipeline

HELP = """\
/sources   what the last answer cites, word for word
/history   the conversation so far
/new       begin another conversation
/sessions  conversations that are kept; rag chat --session NAME resumes one
/help      this list
/quit      leave (Ctrl-D as well)"""


def chat(
    context: typer.Context,
    *,
    session_name: Annotated[
        str | None,
        typer.Option("--session", metavar="NAME", help="Resume a conversation, or begin one of this name."),
    ] = None,
    top_k: TopKFlag = None,
    index: IndexFlag = None,
    profile: ProfileFlag = None,
    encoder: EncoderFlag = None,
    device: DeviceFlag = None,
    reader: ReaderFlag = None,
    config: ConfigFlag = None,
) -> None:
    """Ask, and ask further. Follow-up questions may refer to what was said; the conversation is kept."""
    from app.chat import Conversation, new_name

    session: Session = context.obj
    settings = session.config(
        config=config, index=index, profile=profile, encoder=encoder, device=device, reader=reader, top_k=top_k
    )
    conversation = Conversation.open(settings.chats, session_name or new_name())
    with session.pipeline(settings) as pipeline:
        note(f"conversation {conversation.name}, {len(conversation.exchanges)} questions so far; /help for commands")
        _Talk(pipeline, conversation).run()


class _Talk:
    """Reads lines until there are no more; each is a command or a question."""

    def __init__(self, pipeline: Pipeline, conversation: Conversation) -> None:
        self._pipeline, self._conversation = pipeline, conversation

    def run(self) -> None:
        for line in _lines():
            text = line.strip()
            if text == "/quit":
                return
            if text.startswith("/"):
                self._command(text)
            elif any(character.isprintable() and not character.isspace() for character in text):
                self._ask(text)

    def _ask(self, asked: str) -> None:
        stream = self._conversation.ask(self._pipeline, asked, note=self._understood)
        try:
            if stdout().is_terminal:
                print_stream(stream)
            else:
                print_answer(exhausted(stream), stdout())
        except (RagError, OSError) as error:
            complain("error", str(error))
        except KeyboardInterrupt:
            complain("interrupted", "the question was not kept; /quit leaves")

    def _understood(self, question: str) -> None:
        note(f"understood as: {question}")

    def _command(self, text: str) -> None:
        from app.chat import Conversation, conversations, new_name

        folder = self._conversation.folder
        if text == "/sources":
            self._sources()
        elif text == "/history":
            for each in self._conversation.exchanges:
                stdout().print(f"? {visible(each.asked)}", style="bold", soft_wrap=True)
                stdout().print(visible(each.answer, one_line=False), soft_wrap=True)
        elif text == "/new":
            self._conversation = Conversation.open(folder, new_name())
            note(f"conversation {self._conversation.name}")
        elif text == "/sessions":
            stdout().print("\n".join(map(visible, conversations(folder))) or "none yet", soft_wrap=True)
        elif text == "/help":
            stdout().print(HELP)
        else:
            complain("error", f"there is no command {text}; /help lists those there are")

    def _sources(self) -> None:
        last = self._conversation.exchanges[-1:]
        if not last or not last[0].sources:
            stdout().print("the last answer cites nothing" if last else "nothing was asked yet")
            return
        for source in last[0].sources:
            where, _ = place(source.source, source.line, source.page, ())
            stdout().print(f"[{source.marker}] {where}", style="cyan", soft_wrap=True)
            stdout().print(visible(source.quote, one_line=False), soft_wrap=True)


def _lines() -> Iterator[str]:
    """Lines from the terminal, with editing, or of standard input; those that cannot be read are reported."""
    from app.cli.lines import read_lines

    if not sys.stdin.isatty():
        for line in read_lines("-"):
            if line.problem is None:
                yield line.text
            else:
                complain("error", line.problem)
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - arrows and history for input()
    while True:
        try:
            yield input("\n> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
