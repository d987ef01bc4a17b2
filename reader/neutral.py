"""Text from documents, questions and histories, made harmless: what looks like a control token is broken visibly.

A dot goes behind the first character of every control token or turn marker of the known model families, so that no
tokenizer reads it as one and a person still sees what stood there. Knows characters; no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Collection

DOT = "·"

# <|user|>, <|im_start|>, <|eot_id|>, DeepSeek's wide <｜User｜>; <s>, </s>, <unk>, <start_of_turn>, <think>, <tool_call>
# and their like; [INST], [/INST], [AVAILABLE_TOOLS], [gMASK]; <<SYS>>; "### Instruction:" and "### Response:".
_MARKERS = (
    r"<[|｜][^<>\n]{1,60}?[|｜]>"
    r"|</?(?:s|unk|pad|bos|eos|mask|cls|sep|sop|eop|(?:start|end)_of_[a-z_]{1,30}|begin_of_[a-z_]{1,30}"
    r"|think|tool_calls?|tool_responses?|tools|function_calls?|im_start|im_end|endoftext|unused\d{1,4}|extra_id_\d{1,4}"
    r"|turn|reserved_\d{1,4}|0x[0-9a-f]{2})>"
    r"|\[/?(?:inst|system_prompt|available_tools|tool_calls|tool_results|tool_content|args|call_id|think|img|img_break"
    r"|img_end|prefix|suffix|middle|bos|eos|pad|unk|cls|sep|mask|gmask|smask|control_\d{1,4})\]"
    r"|<</?sys>>"
    r"|###\s?(?:instruction|response|system|user|assistant|human|input)\b"
)
_KNOWN = re.compile(rf"(?=(?:{_MARKERS}))(.)", re.IGNORECASE)


def neutralise(text: str, tokens: Collection[str] = ()) -> str:
    """The text with every known turn marker, and every one of `tokens`, broken by a dot behind its first character.

    Harmless text comes back as it is. Lone surrogates, which no tokenizer takes, become U+FFFD.
    """
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if _has_surrogates(text) else text
    text = _KNOWN.sub(rf"\1{DOT}", text)
    longer = [re.escape(token) for token in tokens if token.strip()]
    if longer:
        found = re.compile(rf"(?=(?:{'|'.join(sorted(longer, key=len, reverse=True))}))(.)", re.DOTALL)
        text = found.sub(rf"\1{DOT}", text)
    return text


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
