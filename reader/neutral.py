"""Text from documents, questions and histories, made harmless: what looks like a control token is broken visibly.

A dot goes behind the first character of every control token or turn marker of the known model families, so that no
tokenizer reads it as one and a person still sees what stood there. Knows characters; no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

DOT = "·"

# Behind "<" (or its full-width form): |user|>, |im_start|>, |eot_id|>, DeepSeek's wide ｜User｜>, Gemma's |turn> and
# turn|>; s>, /s>, unk>, start_of_turn>, think>, tool_call>, reserved_106> and their like; <SYS>>; MiniCPM's 用户>, AI>.
_ANGLE = (
    r"[|｜][^<>＜＞\s]{1,60}[>＞]|/?[a-z_]{1,30}[|｜][>＞]"
    r"|/?(?:s|unk|pad|bos|eos|sop|eop|eod|eo[ahs]|(?:start|end|begin|beginning)_of_[a-z_]{1,30}"
    r"|(?:bos|eos)_token|think|tool_calls?|tool_responses?|function_calls?|im_start|im_end|endoftext"
    r"|seed:[a-z_:]{1,30}|unused_?\d{1,4}|extra_id_\d{1,4}|reserved_\d{1,4}|special_\d{1,4}|0x[0-9a-f]{2})[>＞]"
    r"|<\s?/?sys\s?>>|(?:用户|(?-i:AI))[>＞]"
)
# Behind "[": INST], /INST], AVAILABLE_TOOLS], gMASK]; EXAONE's |user|]. In capitals as the models have them: a usage
# line such as `tool [args]` is ordinary text.
_SQUARE = (
    r"/?(?:(?i:inst)|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|MODEL_SETTINGS|ARGS|CALL_ID"
    r"|THINK|IMG|IMG_BREAK|IMG_END|PREFIX|SUFFIX|MIDDLE|gMASK|sMASK|control_\d{1,4}|UNUSED_TOKEN_\d{1,4})\]"
    r"|\|[^\[\]\s]{1,60}\|\]|e~\["
)
_CLOSING = r"~!?b[\[\]]"  # behind "]": MiniMax begins a text with ]~!b[ and a turn with ]~b], and ends it with [e~[
# "### Instruction:" and "### Response:" begin a turn; a heading "### User guide" is a heading.
_HASHES = r"##[ \t]?(?:instruction|response|system|user|assistant|human)s?[ \t]?[:：]"
_KNOWN = re.compile(rf"[<＜](?=((?i:{_ANGLE})))|\[(?=({_SQUARE}))|#(?=((?i:{_HASHES})))|\](?=({_CLOSING}))")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Span = tuple[int, int]


def neutralise(text: str, tokens: Collection[str] = ()) -> str:
    """The text with every known turn marker, and every one of `tokens`, broken by a dot behind its first character.

    Harmless text comes back as it is. Lone surrogates, which no tokenizer takes, become U+FFFD. To go over many texts
    with the same tokens, keep a `Marks`.
    """
    return Marks(tokens).neutralise(text)


class Marks:
    """What must not stand in data: the markers of the known model families, and the given tokens, letter by letter."""

    def __init__(self, tokens: Collection[str] = ()) -> None:
        self._tokens = {token for token in tokens if token.strip()}
        self._longest_first = sorted({len(token) for token in self._tokens}, reverse=True)
        firsts = "".join(sorted({token[0] for token in self._tokens}))
        # A set and a look at each possible first character, not one pattern of all tokens: some models have thousands.
        self._first = re.compile(f"[{re.escape(firsts)}]") if firsts else None

    def neutralise(self, text: str) -> str:
        """See `neutralise`."""
        text = _LONE_SURROGATE.sub("\ufffd", text)
        return broken(text, self.find(text))

    def find(self, text: str) -> Iterator[Span]:
        """Where marks stand in a text; overlapping ones too."""
        for found in _KNOWN.finditer(text):
            yield found.start(), found.end(found.lastindex or 0)
        for found in self._first.finditer(text) if self._first else ():
            start = found.start()
            here = (text[start : start + length] for length in self._longest_first)
            token = next((candidate for candidate in here if candidate in self._tokens), "")
            if token:
                yield start, start + len(token)


def broken(text: str, spans: Iterable[Span]) -> str:
    """The text with a dot in each of the spans, behind its first character; a single character becomes the dot.

    A span may begin before the text or end behind it: a dot then keeps the part that is here from the rest.
    """
    parts, done = [], 0
    for cut, alone in sorted({(max(start + 1, 0), end - start == 1) for start, end in spans}):
        parts += [text[done : cut - alone], DOT]
        done = cut
    return "".join([*parts, text[done:]])
