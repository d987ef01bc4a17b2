"""Conversations as token ids, by a model's own chat template, so that no text can become a control token.

The template is rendered with a stand-in for each content, so that afterwards every character is known to be the
template's or data. The whole is tokenised once, as the model's own tokenizer would: harmless text gives the very ids
of `apply_chat_template`. A control token or turn marker that stands in data, or reaches into it, is broken visibly.
Knows one tokenizer; nothing of models or windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from reader.backends.base import Message
from reader.neutral import Marks, Span, broken
from retrieval.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Private-use characters around a number: no template changes them, and contents never pass through the template.
_STAND_IN = "\ue0f0{}\ue0f1"
_FIND_STAND_IN = re.compile("\ue0f0([0-9]{1,9})\ue0f1")
_MAX_FRAME_CHARS = 1_000_000  # of the template's own text; real ones write a few hundred
_MAX_ROUNDS = 8  # a broken token may show one that it overlapped: one round is usual, two are rare
_MARKER_CHARS = 40  # a longer line of a template is prose, not the marker of a turn
_HARMLESS = "x"
_PROBE = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "u"))


class ChatTemplate:
    """A model's chat template with its tokenizer.

    `markers`: the lines in plain characters by which its turns begin or end, such as Zephyr's `<|user|>`: an answer
    that writes one has gone on to somebody else's turn. Control tokens are not among them.
    """

    markers: tuple[str, ...]

    def __init__(self, tokenizer: Any, *, name: str) -> None:
        """`tokenizer` is a fast transformers tokenizer, `name` the model's, for errors.

        Raises ModelError where there is no chat template or it cannot hold a conversation, or the tokenizer is slow.
        """
        self._name = name
        self._tokenizer = _private_copy(tokenizer, name)
        if not tokenizer.chat_template:
            raise ModelError(
                f"{name} has no chat template; expected one in its tokenizer_config.json or chat_template.jinja; name "
                "another model, or add the chat_template.jinja of the one it was made from"
            )
        self._render = tokenizer.apply_chat_template
        tokens = _control_tokens(tokenizer)
        self._control = frozenset(tokens) - _harmless_ids(tokenizer)
        self._marks = Marks(tokens.values())
        self._folds_system = False
        self._folds_system = not self._accepts(_PROBE[:2])
        self.markers = tuple(sorted(set(self._turn_markers(tokens.values()))))
        self._marks = Marks([*tokens.values(), *self.markers])
        self._fold = _folding(self._tokenizer)
        self._folded_marks = Marks(["".join(map(self._fold, marker)) for marker in self.markers])

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The whole prompt, with the opening of the assistant's turn.

        White space around contents is left out. Where the template takes no system message, its text goes before the
        first user message. Raises ModelError where the template refuses the order of the roles or loses a content.
        """
        return self._ids(self._pieces(messages))

    def count(self, text: str) -> int:
        """Tokens of a text within a prompt; an upper bound of what it adds there on lines of its own.

        Two or three more than the text has alone: the ends of the lines around it count.
        """
        return len(self._ids(["\n", self._marks.neutralise(text), "\n"])) if text else 0

    def _pieces(self, messages: Sequence[Message]) -> list[str]:
        """The prompt as text of the template and contents in turns: template, content, ..., template."""
        if self._folds_system:
            messages = _folded(messages)
        pieces = _FIND_STAND_IN.split(self._frame(messages))
        contents = {str(number): self._marks.neutralise(message.content) for number, message in enumerate(messages)}
        if sorted(pieces[1::2]) != sorted(contents):
            shown = ", ".join(str(int(number) + 1) for number in pieces[1::2])
            raise ModelError(
                f"the chat template of {self._name} shows the messages ({shown}) of {len(messages)} "
                f"({_roles(messages)}), expected each of them once; name another model"
            )
        pieces[1::2] = [contents[number].strip() for number in pieces[1::2]]
        return pieces

    def _frame(self, messages: Sequence[Message]) -> str:
        """What the template writes around contents. It is a program of the model's authors: it may raise anything."""
        turns = [{"role": message.role, "content": _STAND_IN.format(number)} for number, message in enumerate(messages)]
        try:
            frame = self._render(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            found = " ".join(str(error).split())[:300]
            raise ModelError(
                f"the chat template of {self._name} refuses a conversation of {_roles(messages) or 'no messages'} "
                f"({type(error).__name__}: {found}); name another model"
            ) from error
        if len(frame) > _MAX_FRAME_CHARS:
            raise ModelError(
                f"the chat template of {self._name} writes {len(frame):,} characters around {len(messages)} messages, "
                f"expected at most {_MAX_FRAME_CHARS:,}; name another model"
            )
        return str(frame)

    def _accepts(self, messages: Sequence[Message]) -> bool:
        try:
            self._pieces(messages)
        except ModelError:
            return False
        return True

    def _turn_markers(self, tokens: Iterable[str]) -> Iterator[str]:
        """Lines of the template between contents, less its control tokens.

        Only what has more than letters and digits: in `<|im_start|>user` the token marks the turn, not the word.
        """
        control = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")
        for piece in self._pieces(_PROBE)[0::2]:
            for line in control.sub("\n", piece).splitlines():
                marker = line.strip()
                if 1 < len(marker) <= _MARKER_CHARS and not re.fullmatch(r"[\w\s]*", marker):
                    yield marker

    def _ids(self, pieces: list[str]) -> list[int]:
        """Token ids of template and data in turns. What is control in data is broken until nothing is."""
        frame = [_HARMLESS if number % 2 else piece for number, piece in enumerate(pieces)]
        wanted = [id_ for id_, _ in self._controls(self._encode(frame))]
        for _ in range(_MAX_ROUNDS):
            encoding = self._encode(pieces)
            controls = self._controls(encoding)
            safe = _broken_in_data(pieces, [*(span for _, span in controls), *self._find_marks("".join(pieces))])
            if safe == pieces and [id_ for id_, _ in controls] == wanted:
                ids: list[int] = encoding.ids
                return ids
            pieces = safe
        raise ModelError(
            f"a text in the prompt changes which control tokens {self._name} reads, even with dots in it; expected a "
            "tokenizer that reads the template alike around any text; name another model"
        )

    def _find_marks(self, text: str) -> Iterator[Span]:
        """Marks as they stand, and those that the tokenizer makes of capitals, full-width forms and the like."""
        yield from self._marks.find(text)
        if self._tokenizer.normalizer is not None:
            folded = [self._fold(character) for character in text]
            origin = [place for place, characters in enumerate(folded) for _ in characters]
            for start, end in self._folded_marks.find("".join(folded)):
                yield origin[start], origin[end - 1] + 1

    def _encode(self, pieces: Sequence[str]) -> Encoding:
        return self._tokenizer.encode("".join(pieces), add_special_tokens=False)

    def _controls(self, encoding: Encoding) -> list[tuple[int, Span]]:
        """The control tokens with the characters that each was read from."""
        tokens = zip(encoding.ids, encoding.offsets, strict=True)
        return [(id_, span) for id_, span in tokens if id_ in self._control]


def _roles(messages: Sequence[Message]) -> str:
    return ", ".join(message.role for message in messages)


def _broken_in_data(pieces: Sequence[str], spans: Sequence[Span]) -> list[str]:
    """The pieces, with a dot in every data piece (the odd ones) wherever a span reaches into it."""
    safe = list(pieces)
    for number, (start, end) in enumerate(pairwise(accumulate(map(len, pieces), initial=0))):
        if number % 2:
            inside = [(first - start, last - start) for first, last in spans if first < end and last > start]
            safe[number] = broken(pieces[number], inside)
    return safe


def _private_copy(tokenizer: Any, name: str) -> Tokenizer:
    """The tokenizer behind a fast transformers tokenizer, for us alone: others may set padding, or split tokens."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelError(
            f"the tokenizer of {name} ({type(tokenizer).__name__}) does not say where its tokens begin and end; "
            "expected a fast one, saved with a tokenizer.json; name another model"
        )
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _folding(tokenizer: Tokenizer) -> Callable[[str], str]:
    """What a tokenizer's normaliser makes of one character in the middle of a text."""
    normalizer = tokenizer.normalizer
    first = normalizer.normalize_str("x") if normalizer else ""

    @lru_cache(maxsize=65_536)
    def fold(character: str) -> str:
        return normalizer.normalize_str("x" + character).removeprefix(first) if normalizer else character

    return fold


def _control_tokens(tokenizer: Any) -> dict[int, str]:
    """Every special or added token; but runs of white space, which some models add, are only text."""
    added = tokenizer.added_tokens_decoder
    tokens = {id_: token.content for id_, token in added.items() if token.special or token.content.strip()}
    return tokens | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def _harmless_ids(tokenizer: Any) -> set[int]:
    """The unknown token, which unknown characters become; unless it stands for an end or a beginning as well."""
    return {tokenizer.unk_token_id} - {tokenizer.bos_token_id, tokenizer.eos_token_id}


def _folded(messages: Sequence[Message]) -> list[Message]:
    """The conversation without system messages: their text stands before the first user message."""
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    first = next((number for number, message in enumerate(rest) if message.role == "user"), None)
    if not system:
        return rest
    if first is None:
        return [Message("user", "\n\n".join(system)), *rest]
    rest[first] = Message("user", "\n\n".join([*system, rest[first].content]))
    return rest
