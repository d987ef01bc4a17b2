"""The reader with a language model: packs the passages, lets it write, and checks every sentence it wrote.

Knows prompts, backends and the verifier; nothing of indexes, and nothing of how a model is run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat

from prompts import Prompt
from reader.backends.base import Backend, Generation, Message, Sampling
from reader.budget import Block, Packed, pack
from reader.citations import Claim, MarkerResolver, Resolved, cite, require_same, resolve, with_added
from reader.compress import Compressor
from reader.reader import REFUSAL, LookUp, abstention, has_evidence, is_refusal, question_language, word_matches
from reader.records import (
    LEAST_SUPPORT,
    Answer,
    Citation,
    PromptInfo,
    ReaderInfo,
    Sentence,
    Turn,
    WordMatch,
    Written,
)
from reader.verify import Check, Evidence, Verifier
from retrieval.errors import PromptTooLongError, RagError
from retrieval.interaction import Interaction
from retrieval.retriever import Retrieved

HISTORY_SHARE = 0.25
"""Of the window is what earlier turns may take; the oldest go first."""

_LEAST_ROOM = 64
"""Tokens for passages below which a prompt is not worth asking."""

AnswerStream = Generator[str, None, Answer]
"""Yields the answer's text as it is written, markers resolved, and returns the checked answer."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A prompt that is ready to be sent, and the answer that it will complete."""

    answer: Answer
    retrieved: Retrieved
    messages: tuple[Message, ...]
    shown: tuple[int, ...]
    look_up: LookUp


@dataclass(frozen=True, slots=True)
class _Finding:
    """What checking a sentence found: against what it cites, if anything, and else against the best passage shown.

    Evidence is by the numbers of the passages in the prompt.
    """

    cited: Check | None
    shown: Check | None

    @property
    def most(self) -> float:
        """The support by whatever supports it most."""
        return max(check.support for check in (self.cited, self.shown) if check)

    @property
    def supporter(self) -> int | None:
        """The passage that supports what the sentence's own citations do not."""
        return self.shown.evidence[0].passage if self.shown and self.shown.label == "supported" else None


class GenerativeReader:
    """Lets a language model answer from the passages, and trusts none of its citations unchecked."""

    def __init__(
        self,
        backend: Backend,
        interaction: Interaction,
        look_up: LookUp,
        *,
        prompt: Callable[[str], Prompt],
        sampling: Sampling,
        verifier: Verifier | None = None,
        compressor: Compressor | None = None,
        min_evidence: float | None = None,
        name: str = "generative",
    ) -> None:
        """prompt: language (`en`, `zh`) -> the prompt to answer with. compressor: None shows passages whole."""
        self._backend, self._interaction, self._look_up = backend, interaction, look_up
        self._prompt, self._sampling = prompt, sampling
        self._verifier, self._compressor = verifier or Verifier(interaction), compressor
        self._min_evidence, self._info = min_evidence, ReaderInfo(name, backend.model)

    def read(self, retrieved: Retrieved, history: Sequence[Turn] = ()) -> Answer:
        """A checked answer, or an abstention. Raises ModelError, and PromptTooLongError where nothing fits."""
        asked = self._ask(retrieved, history)
        if isinstance(asked, Answer):
            return asked
        return self._checked(asked, self._backend.generate(asked.messages, self._sampling))

    def stream(self, retrieved: Retrieved, history: Sequence[Turn] = ()) -> AnswerStream:
        """The same, while it is written. What it returns counts: checking may withdraw what was yielded."""
        asked = self._ask(retrieved, history)
        if isinstance(asked, Answer):
            return asked
        markers = MarkerResolver([position + 1 for position in asked.shown])
        pieces = self._backend.stream(asked.messages, self._sampling)
        while True:
            try:
                certain = markers.feed(next(pieces))
            except StopIteration as end:
                generation: Generation = end.value
                break
            if certain:
                yield certain
        yield markers.close()
        return self._checked(asked, generation)

    def read_many(
        self,
        retrieved: Sequence[Retrieved],
        histories: Sequence[Sequence[Turn]] = (),
        *,
        report: Callable[[int], None] = lambda _: None,
    ) -> list[Answer | RagError]:
        """An answer, or what is wrong with this one, for each; the model is asked in batches.

        histories: none, or the turns before each. `report` is told how many it has written.
        """
        asked = [self._try_ask(*one) for one in zip(retrieved, histories or repeat(()), strict=False)]
        sent = [one for one in asked if isinstance(one, _Asked)]
        written = self._backend.generate_many([one.messages for one in sent], self._sampling, report=report)
        answers = iter(
            [
                found if isinstance(found, RagError) else self._checked(one, found)
                for one, found in zip(sent, written, strict=True)
            ]
        )
        return [next(answers) if isinstance(one, _Asked) else one for one in asked]

    def _try_ask(self, retrieved: Retrieved, history: Sequence[Turn]) -> _Asked | Answer | PromptTooLongError:
        try:
            return self._ask(retrieved, history)
        except PromptTooLongError as error:
            return error

    # ---- before the model --------------------------------------------------------------------------------------------

    def _ask(self, retrieved: Retrieved, history: Sequence[Turn] = ()) -> _Asked | Answer:
        """The prompt, or at once an abstention where there is too little evidence."""
        answer = abstention(retrieved, self._info)
        if not retrieved.hits or not has_evidence(retrieved, self._min_evidence):
            return answer
        question = retrieved.question.text
        language = question_language(question)
        prompt = self._prompt(language)
        turns = self._remembered(history)

        def messages(passages: str) -> tuple[Message, ...]:
            system, user = prompt.fill({"refusal": REFUSAL[language], "passages": passages, "question": question})
            return (Message("system", system), *turns, Message("user", user))

        kept = self._kept(retrieved)
        look_up = self._documents(retrieved)
        packed = self._packed(retrieved, kept, messages, look_up)
        sent = messages(packed.text)
        info = PromptInfo(
            name=prompt.name,
            sha256=prompt.sha256,
            tokens=self._backend.prompt_tokens(sent),
            dropped=packed.dropped,
            cut=packed.cut,
            saved_tokens=packed.saved_tokens,
            beside_the_point=tuple(hit.chunk_id for hit, own in zip(retrieved.hits, kept, strict=True) if own == ()),
        )
        return _Asked(replace(answer, prompt=info), retrieved, sent, packed.shown, look_up)

    def _documents(self, retrieved: Retrieved) -> LookUp:
        """The documents of the hits, kept while the answer is written, whatever happens to the index meanwhile.

        Raises ChangedError where one is not as it was found.
        """
        look_up = cache(self._look_up)
        for hit in retrieved.hits:
            require_same(look_up(hit.doc_id), hit)
        return look_up

    def _kept(self, retrieved: Retrieved) -> Sequence[tuple[tuple[int, int], ...] | None]:
        """The stretches of each hit to show; None for all of it."""
        if self._compressor is None:
            return [None] * len(retrieved.hits)
        return self._compressor.keep(retrieved.question, retrieved.hits, retrieved.passages)

    def _packed(
        self,
        retrieved: Retrieved,
        kept: Sequence[tuple[tuple[int, int], ...] | None],
        messages: Callable[[str], tuple[Message, ...]],
        look_up: LookUp,
    ) -> Packed:
        frame = self._backend.prompt_tokens(messages(""))
        room = self._backend.window - self._sampling.max_tokens - frame
        if room < _LEAST_ROOM:
            raise PromptTooLongError(
                f"question, instruction and answer take {frame} + {self._sampling.max_tokens} tokens of the model's"
                f" {self._backend.window}, and leave no room for passages; ask a shorter question, lower"
                " max_answer_tokens, or raise window"
            )
        blocks = [Block(hit, look_up(hit.doc_id).title, own) for hit, own in zip(retrieved.hits, kept, strict=True)]
        packed = pack(blocks, room=room, count=self._backend.count_tokens)
        if not packed.shown:
            raise PromptTooLongError(
                f"there is room for {room} tokens of passages, and not one sentence of the first fits; lower"
                " max_answer_tokens, or raise window"
            )
        return packed

    def _remembered(self, history: Sequence[Turn]) -> list[Message]:
        """The last turns that fit their share of the window, as messages."""
        room = HISTORY_SHARE * self._backend.window
        kept: list[Message] = []
        for turn in reversed(history):
            said = [Message("user", turn.question), Message("assistant", turn.answer)]
            room -= self._backend.prompt_tokens(said[:1]) + self._backend.count_tokens(turn.answer)
            if room < 0:
                break
            kept = said + kept
        return kept

    # ---- after the model ---------------------------------------------------------------------------------------------

    def _checked(self, asked: _Asked, generation: Generation) -> Answer:
        """Resolve the markers, check every sentence, quote the evidence; abstain where there is none."""
        resolved = resolve(generation.text, [position + 1 for position in asked.shown])
        written = Written(
            generation.text,
            generation.answer_tokens,
            generation.complete,
            resolved.removed,
            generation.reused_tokens,
        )
        answer = replace(asked.answer, written=written)
        if is_refusal(resolved.text) or not resolved.claims:
            return replace(answer, abstention="model")
        findings = [self._finding(asked, claim) for claim in resolved.claims]
        if max(finding.most for finding in findings) < LEAST_SUPPORT:
            return replace(answer, abstention="verification")
        return self._cited(answer, asked, resolved, findings)

    def _finding(self, asked: _Asked, claim: Claim) -> _Finding:
        """A sentence against what it cites; where that is nothing or bears it out badly, against all that was shown."""
        passages = asked.retrieved.passages
        own = None
        if claim.markers:
            cited = [passages[marker - 1] for marker in claim.markers]
            own = _renumbered(self._verifier.check(claim.words, cited, each_left_out=True), claim.markers)
            if own.label == "supported":
                return _Finding(own, None)
        each = self._verifier.check_each(claim.words, [passages[position] for position in asked.shown])
        best = max(each, key=lambda check: check.support)
        return _Finding(own, _renumbered(best, [position + 1 for position in asked.shown]))

    def _cited(self, answer: Answer, asked: _Asked, resolved: Resolved, findings: Sequence[_Finding]) -> Answer:
        added = {
            position: finding.supporter
            for position, finding in enumerate(findings)
            if finding.cited is None and finding.supporter
        }
        resolved = with_added(resolved, added)
        sentences: list[Sentence] = []
        citations: dict[Citation, int] = {}
        matches: list[WordMatch] = []
        for position, (claim, finding) in enumerate(zip(resolved.claims, findings, strict=True)):
            cited = []
            for marker in claim.markers:
                hit = asked.retrieved.hits[marker - 1]
                found = _evidence(finding, marker)
                span = (found.start, found.end) if found else _whole(hit.text)
                citation = cite(marker, asked.look_up(hit.doc_id), hit, span)
                if citation not in citations:
                    citations[citation] = len(citations)
                    passage = asked.retrieved.passages[marker - 1]
                    matches += word_matches(self._interaction, asked.retrieved.question, hit, passage, cited=citation)
                cited.append(citations[citation])
            sentences.append(replace(_sentence(claim, finding, added=position in added), citations=tuple(cited)))
        return replace(
            answer,
            text=resolved.text,
            abstained=False,
            abstention=None,
            citations=tuple(citations),
            sentences=tuple(sentences),
            matches=tuple(matches),
        )


def _sentence(claim: Claim, finding: _Finding, *, added: bool) -> Sentence:
    check = finding.cited if finding.cited and not added else finding.shown
    return Sentence(
        start=claim.start,
        end=claim.end,
        markers=claim.markers,
        label=check.label if check and claim.markers else "uncited",
        support=check.support if check else None,
        added=added,
        alone=tuple(found.score if (found := _evidence(finding, marker)) else 0.0 for marker in claim.markers),
        instead=None if added else finding.supporter,
        without=check.without if check else (),
    )


def _whole(text: str) -> tuple[int, int]:
    return len(text) - len(text.lstrip()), len(text.rstrip())


def _evidence(finding: _Finding, marker: int) -> Evidence | None:
    """The best stretch of a cited passage; None of one without words."""
    checks = [check for check in (finding.cited, finding.shown) if check]
    return next((found for check in checks for found in check.evidence if found.passage == marker), None)


def _renumbered(check: Check, markers: Sequence[int]) -> Check:
    """Evidence by the numbers of the passages in the prompt."""
    return replace(check, evidence=tuple(replace(found, passage=markers[found.passage]) for found in check.evidence))
