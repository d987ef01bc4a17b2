"""Ask a language model for scores from 1 to 5 and read them. Knows prompts, backends and verdicts; not what is graded.

Whatever is graded goes into the prompt as JSON strings, one line each: no text can imitate a line of the prompt. Scores
are read from the model's own text alone.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prompts import Prompt
from reader.backends.base import Backend, Generation, Message, Sampling
from retrieval.errors import AnswerError, PromptTooLongError

LoadPrompt = Callable[[str], Prompt]
"""Name of a prompt, such as "judge-en" -> the prompt."""

Asked = tuple[Prompt, Mapping[str, str]]
"""A prompt, and the texts to put in it."""

GRADING = Sampling(max_tokens=400, temperature=0.0, repetition_penalty=1.0, seed=0)
"""A penalty on repetition would punish a model for the figures that the prompt names."""

_SHOWN_CHARS = 60
_LABEL = r"(?<![^\W\d_])(?:score|rating|grade)s?\b|评分|得分|分数|打分|总分|评级"  # no "underscore"
_DIGIT = r"[1-5一二三四五]"
# "Score: 4", "Final score is 4/5.", "评分为4分", "Score: [4] (a slip)": after the number comes what says nothing else.
_VERDICT = re.compile(
    rf"(?:{_LABEL})\s*(?:[:=]|is|为|是|-)?\s*[\[(<]?(?P<score>{_DIGIT})[\])>]?"
    r"\s*(?:(?:/|out\s+of|of)\s*5|points?|分?\s*/\s*5\s*分?|分(?:\s*[(]?满分\s*5\s*分[)]?)?)?\s*"
    r"(?:[.!。]?|[-–—(,;:.。](?!.*\b(?:two|three|four|five)\b)[^\d一二三四五]*)",
    re.IGNORECASE,
)
# A line that gives a number after the label means to be a verdict, well formed or not.
_MEANT = re.compile(rf"(?:{_LABEL})\s*(?:[:=]|(?:is|为|是)?\s*[-\[(<]?\s*[\d一二三四五])", re.IGNORECASE)
_DRESS = re.compile(r"[*_`#>\"'“”‘’{}$|]|\\boxed|\\text")
_VALUES = {**{str(n): n for n in range(1, 6)}, **{han: n for n, han in enumerate("一二三四五", start=1)}}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a model said of one thing: a score from 1 to 5, or None and why there is none. `text` is the model's own."""

    score: int | None
    text: str
    unparsable: str = ""


def grade(backend: Backend, asked: Sequence[Asked], *, report: Callable[[int], None] = lambda _: None) -> list[Verdict]:
    """A verdict on each, in order. `report` is told how many are done. Raises ModelError when the model fails."""
    return [_verdict(one) for one in ask(backend, asked, GRADING, report=report)]


def ask(
    backend: Backend,
    asked: Sequence[Asked],
    sampling: Sampling,
    *,
    report: Callable[[int], None] = lambda _: None,
) -> list[Generation | AnswerError | PromptTooLongError]:
    """What the model writes for each prompt, or why it wrote nothing for this one alone, in order."""
    conversations = [_messages(prompt, values) for prompt, values in asked]
    errors = [_too_long(backend, messages, sampling) for messages in conversations]
    fitting = [messages for messages, error in zip(conversations, errors, strict=True) if error is None]
    written = iter(backend.generate_many(fitting, sampling, report=report) if fitting else ())
    return [next(written) if error is None else error for error in errors]


def _messages(prompt: Prompt, values: Mapping[str, str]) -> tuple[Message, ...]:
    system, user = prompt.fill({name: _quoted(value) for name, value in values.items()})
    return (Message("system", system), Message("user", user))


def _quoted(text: str) -> str:
    """A JSON string on one line, also where programs see line ends that JSON does not."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda one: f"\\u{ord(one[0]):04x}", quoted)


def _too_long(backend: Backend, messages: Sequence[Message], sampling: Sampling) -> PromptTooLongError | None:
    tokens = backend.prompt_tokens(messages)
    if tokens + sampling.max_tokens <= backend.window:
        return None
    return PromptTooLongError(
        f"prompt and answer take {tokens} + {sampling.max_tokens} tokens, the window is {backend.window}; raise window"
    )


def _verdict(written: Generation | AnswerError | PromptTooLongError) -> Verdict:
    if not isinstance(written, Generation):
        return Verdict(None, "", str(written))
    score, unparsable = parse_score(written.text, complete=written.complete)
    return Verdict(score, written.text, unparsable)


def parse_score(text: str, *, complete: bool = True) -> tuple[int | None, str]:
    """The score in the last line that gives one, or None and why. An incomplete text's last line is not trusted.

    Markdown, full-width characters, "/5" and a reason behind the score are understood. A last verdict that is not one
    whole number from 1 to 5 ("4.5", "4 or 5", "8/10") is refused, not read as an earlier one.
    """
    lines = [_plain(line) for line in text.splitlines()]
    if not complete:
        lines = lines[:-1]
    for line in reversed(lines):
        meant = list(_MEANT.finditer(line))
        if not meant:
            continue
        found = _VERDICT.fullmatch(line, meant[-1].start())
        if found:
            return _VALUES[found["score"]], ""
        return None, f"found {line[:_SHOWN_CHARS]!r}; expected one whole number from 1 to 5"
    cut = "" if complete else ", and the text was cut at its longest"
    return None, f"found no line of the form 'Score: N'{cut}"


def _plain(line: str) -> str:
    folded = unicodedata.normalize("NFKC", line)
    visible = "".join(one for one in folded if unicodedata.category(one) != "Cf")
    return _DRESS.sub("", visible).strip()
