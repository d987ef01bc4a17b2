"""One encoder for many threads: what several ask for at the same moment is encoded together. Knows threads; no text.

Whoever comes to the encoder first takes along all that waits by then. Nobody waits for company, there is no timer: a
text alone is encoded at once, and in a crowd batches grow by themselves while the one before is at work.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from retrieval.encoder import PooledViews

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from retrieval.encoder import Encoded, Encoder
    from retrieval.records import EncoderSpec

TOGETHER = 32
"""Texts encoded together, about. Whoever brings more gives way after as many."""


@dataclass(frozen=True, slots=True)
class _Asked:
    texts: Sequence[str]
    query: bool
    done: Future[list[Encoded]] = field(default_factory=Future)


class SharedEncoder(PooledViews):
    """An Encoder whose runs are shared by all threads. Its vectors are those of the encoder that it wraps."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._waiting: deque[_Asked] = deque()
        self._at_work = threading.Lock()

    @property
    def spec(self) -> EncoderSpec:
        """What makes its vectors comparable with others."""
        return self._encoder.spec

    @property
    def tokenizer(self) -> Tokenizer:
        """That of the encoder."""
        return self._encoder.tokenizer

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Iterator[Encoded]:
        """Encode texts, in input order, at most TOGETHER ahead of what is taken.

        Raises TextTooLongError where one of these texts, not of another thread's, is too long.
        """
        for first in range(0, len(texts), TOGETHER):
            asked = _Asked(texts[first : first + TOGETHER], query)
            self._waiting.append(asked)
            with self._at_work:
                while not asked.done.done():  # else the one before has taken it along
                    self._run(self._batch())
            yield from asked.done.result()

    def _batch(self) -> list[_Asked]:
        """The longest waiting of one kind: questions and passages have prefixes of their own."""
        batch = [self._waiting.popleft()]
        size = len(batch[0].texts)
        while self._waiting and self._waiting[0].query == batch[0].query:
            size += len(self._waiting[0].texts)
            if size > TOGETHER:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _run(self, batch: Sequence[_Asked]) -> None:
        """Settle what was asked, whatever happens: others wait for it."""
        try:
            texts = [text for asked in batch for text in asked.texts]
            encoded = iter(list(self._encoder.encode(texts, query=batch[0].query)))
        except BaseException as error:  # noqa: BLE001 - whatever it is, whoever asked is told
            if len(batch) > 1 and isinstance(error, Exception):
                for asked in batch:  # only whose text it is shall be told
                    self._run([asked])
                return
            for asked in batch:
                asked.done.set_exception(error)
        else:
            for asked in batch:
                asked.done.set_result(list(islice(encoded, len(asked.texts))))
