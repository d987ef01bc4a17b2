"""Conversations that are written together: each comes in when there is a seat, and leaves when it is done or unheard.

No thread runs here. Of the callers who wait for text, one goes on with all conversations until its own has come, then
another does: where nobody waits, nothing is computed, and nothing is left running. Knows rows of a batch and who waits
for them; nothing of messages or templates, and of memory only what its host says.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from reader.backends.base import Sampling
from reader.backends.generation import Draft, Rows, fits_memory, give_memory_back, is_out_of_memory
from retrieval.errors import ModelError

MAX_ROWS = 64
"""Conversations that are written together; more gain little (docs/benchmarks.md)."""
_TOO_MUCH = (
    "out of memory with a single prompt; ask with fewer or shorter passages, or load the model in 4 bits "
    "or with a quantised key-value cache"
)


class Host(Protocol):
    """The model, as it is needed here. One thread at a time calls it."""

    @property
    def can_cut(self) -> bool:
        """Whether rows can be taken out of a cache, and put together with others."""

    def begin(self, tokens: Sequence[int], sampling: Sampling) -> tuple[Rows, int]:
        """One row that has still to be read, but for so many tokens at its beginning."""

    def begin_padded(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Rows:
        """Rows that have still to be read."""

    def join(self, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts."""

    def keep(self, rows: Rows) -> None:
        """Remember the one row of these, for a prompt that begins like it."""

    def most_rows(self, *, tokens: int, held: int) -> int:
        """How many rows of so many tokens memory has room for; they hold the keys and values of `held` tokens now."""

    def make_room(self, notice: str = "") -> None:
        """Give up what can be done without; people are told of it."""


class Conversation:
    """An answer in the making. `tokens`: the prompt, and what was chosen after it.

    pieces: text that nobody has taken yet; None is the end. is_heard: whether somebody waits for each piece, or only
    for the end.
    """

    def __init__(self, prompt: Sequence[int], sampling: Sampling, draft: Draft, *, is_heard: bool) -> None:
        self.tokens, self.sampling, self.draft, self.is_heard = list(prompt), sampling, draft, is_heard
        self.prompt_tokens = len(prompt)
        self.most_tokens = len(prompt) + sampling.max_tokens
        self.reused_tokens = 0
        self.draw: Any = None  # its source of chance, which goes on where the answer does
        self.pieces: deque[str | None] = deque()
        self.error: Exception | None = None
        self.has_ended = self.has_left = False
        if draft.done:
            self.end()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to write, or nobody to write for."""
        return self.has_ended or self.has_left

    def is_like(self, other: Conversation) -> bool:
        """Whether they can be written as one batch from beginning to end."""
        return (self.sampling, self.is_heard) == (other.sampling, other.is_heard)

    def add(self, token: int) -> None:
        """Take in what the model chose. What comes after the end is nothing."""
        if self.has_ended:
            return
        self.tokens.append(token)
        if piece := self.draft.add(token):
            self.pieces.append(piece)
        if self.draft.done:
            self.end()

    def end(self, error: Exception | None = None) -> None:
        """The end, of the answer or of the hope for one."""
        self.error, self.has_ended = error, True
        self.pieces.append(None)

    def check(self) -> None:
        """Raises what went wrong, as an error of this caller's own: others may have met the same."""
        if isinstance(self.error, ModelError):
            raise ModelError(str(self.error)) from self.error
        if self.error is not None:
            raise self.error


class Batching:
    """Seats for conversations, first come, first served; any thread may bring some, and any number at once."""

    def __init__(self, host: Host, *, most: int = MAX_ROWS) -> None:
        self._host, self._limit, self._most = host, most, most
        self._changed = threading.Condition()
        self._at_work: object = None  # stands for the caller who goes on with all; what follows is that caller's alone
        self._waiting: deque[Conversation] = deque()  # but this one, to which any caller adds
        self._writing: list[Conversation] = []  # in the order of the rows
        self._rows: Rows | None = None
        self._owes_a_step = False

    def stream(self, one: Conversation) -> Generator[str, None, None]:
        """The text of a conversation, as it is written. Closed, it gives up its seat. Raises what went wrong."""
        self._waiting.append(one)
        try:
            while True:
                self._until(lambda: bool(one.pieces))
                if (piece := one.pieces.popleft()) is None:
                    break
                yield piece
        finally:
            self._leave([one])
        one.check()

    def write(self, conversations: Sequence[Conversation], *, report: Callable[[int], None]) -> None:
        """Write all of these to their ends; `report` is told how many there are. Raises the first error."""
        self._waiting.extend(conversations)
        try:
            for count in range(1, len(conversations) + 1):
                self._until(partial(_have_ended, conversations, count))
                for one in conversations:
                    one.check()
                report(count)
        finally:
            self._leave(conversations)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """All who write wait meanwhile: the model is the caller's alone."""
        me = object()
        try:
            self._wait_for_turn(me, lambda: False)
            yield
        finally:
            self._hand_over(me)

    # ---- whose turn it is --------------------------------------------------------------------------------------------

    def _until(self, holds: Callable[[], bool]) -> None:
        """Go on with all conversations until something holds, or wait for it while another caller does."""
        me = object()
        try:
            while self._wait_for_turn(me, holds):
                self._attempt(self._go_on)
        finally:
            self._hand_over(me)

    def _wait_for_turn(self, me: object, holds: Callable[[], bool]) -> bool:
        """Whether it is this caller's turn to go on; False as soon as something holds."""
        with self._changed:
            self._changed.notify_all()  # of what this caller did last
            self._changed.wait_for(lambda: holds() or self._at_work in (None, me))
            if holds():
                return False
            self._at_work = me
            return True

    def _hand_over(self, me: object) -> None:
        with self._changed:
            if self._at_work is me:
                self._at_work = None
            self._changed.notify_all()

    def _leave(self, those: Sequence[Conversation]) -> None:
        """Give up the seats of these: at once, or within the step that another caller takes just now.

        Never waits: the garbage collector closes a forgotten stream wherever it is, in the middle of a step too.
        """
        for one in those:
            one.has_left = True
        me = object()
        with self._changed:
            if self._at_work is None:
                self._at_work = me
        try:
            if self._at_work is me:
                self._attempt(self._let_go)
        finally:
            self._hand_over(me)

    # ---- a step ------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Who is done leaves; then one who waits comes in, or all who write get a token.

        Both take turns: a prompt can take as long as many steps, and whoever reads an answer as it is written waits
        for one prompt at most.
        """
        self._let_go()
        if not self._owes_a_step and self._next() is not None:
            self._let_in()
        else:
            self._write()

    def _write(self) -> None:
        self._owes_a_step = False
        if self._rows is not None:
            for one, token in zip(self._writing, self._rows.step(), strict=True):
                one.add(token)

    def _let_go(self) -> None:
        going = [row for row, one in enumerate(self._writing) if not one.is_over]
        if not going:
            if self._rows is not None and len(self._writing) == 1:
                self._host.keep(self._rows)
            self._clear()
        elif self._rows is not None and self._host.can_cut and len(going) < len(self._writing):
            self._rows.keep(going)
            self._writing = [self._writing[row] for row in going]
        if not self._writing and self._next() is None:
            self._most = self._limit

    def _let_in(self) -> None:
        """One prompt where somebody waits for the next piece of an answer, else all for whom there is a seat."""
        parts = [] if self._rows is None else [self._rows]
        while (one := self._next()) is not None:
            part = self._read(one) if self._host.can_cut else self._read_padded(one)
            parts += [] if part is None else [part]
            if one.is_heard or any(each.is_heard for each in self._writing):
                break
        if parts:
            self._rows = self._host.join(parts) if len(parts) > 1 else parts[0]
        self._owes_a_step = True

    def _next(self) -> Conversation | None:
        """Who comes in next, if anyone waits and there is a seat. Rows that cannot be cut share no time with others."""
        while self._waiting and self._waiting[0].is_over:
            self._waiting.popleft()
        if not self._waiting or (self._writing and not self._host.can_cut):
            return None
        one = self._waiting[0]
        return one if not self._writing or len(self._writing) < self._seats(one) else None

    def _seats(self, one: Conversation) -> int:
        """How many there are for those who write and this one."""
        tokens = max(each.most_tokens for each in (*self._writing, one))
        held = len(self._writing) * max((len(each.tokens) for each in self._writing), default=0)
        return min(self._most, self._host.most_rows(tokens=tokens, held=held))

    def _read(self, one: Conversation) -> Rows | None:
        """A prompt alone, and the token after it; None where nothing is left to write. Its errors are its own."""
        self._writing.append(self._waiting.popleft())
        try:
            rows, known = self._host.begin(one.tokens, one.sampling)
            if len(one.tokens) == one.prompt_tokens:
                one.reused_tokens = known
            _draw_on(rows, [one])
            one.add(rows.step()[0])
            self._host.keep(rows)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            one.end(error)
        if one.is_over:
            self._writing.pop()
            return None
        return rows

    def _read_padded(self, first: Conversation) -> Rows:
        """Rows that begin and end together, to be read: one that is heard, else as many alike as have seats."""
        seats = 1 if first.is_heard else self._seats(first)
        while self._waiting and len(self._writing) < seats and self._waiting[0].is_like(first):
            self._writing.append(self._waiting.popleft())
        rows = self._host.begin_padded([one.tokens for one in self._writing], first.sampling)
        _draw_on(rows, self._writing)
        return rows

    # ---- what can go wrong -------------------------------------------------------------------------------------------

    def _attempt(self, job: Callable[[], None]) -> None:
        """Do it; what the model fails by is the end of all who write now, and those who wait begin anew."""
        try:
            fits = fits_memory(job)
        except Exception as error:  # noqa: BLE001 - raised to everyone whom it concerns, each in a thread of its own
            for one in self._clear():
                one.end(error)
        except BaseException:  # this caller is interrupted, nobody else
            self._put_back(self._clear())
            raise
        else:
            if not fits:
                self._make_room(self._clear())

    def _make_room(self, those: Sequence[Conversation]) -> None:
        """Half as many at a time, until there is nobody; one alone that finds no memory is at its end."""
        give_memory_back()
        if len(those) > 1:
            self._most = len(those) // 2
            self._host.make_room(f"out of memory with {len(those)} prompts together; went on with {self._most}")
            self._put_back(those)
            return
        self._host.make_room()
        for one in those:
            one.end(ModelError(_TOO_MUCH))

    def _put_back(self, those: Sequence[Conversation]) -> None:
        """What they have written so far is read with their prompts, and gone on with."""
        self._waiting.extendleft(reversed(those))

    def _clear(self) -> list[Conversation]:
        """Nobody writes any more; returns who still would."""
        those, self._writing, self._rows = self._writing, [], None
        return [one for one in those if not one.is_over]


def _have_ended(conversations: Sequence[Conversation], count: int) -> bool:
    return sum(one.has_ended for one in conversations) >= count


def _draw_on(rows: Rows, those: Sequence[Conversation]) -> None:
    """Whoever has drawn before goes on with that source of chance."""
    for row, one in enumerate(those):
        one.draw = rows.draws[row] = one.draw or rows.draws[row]
