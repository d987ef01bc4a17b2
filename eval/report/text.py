"""What may stand in the page: texts made visible, JSON that cannot leave its element. Knows characters only."""

from __future__ import annotations

import json
import re

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls: HTML forbids most, a terminal would obey some
    "\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings and overrides: a text reads other than it is written
    "\U000e0000-\U000e007f"  # tags: text that nobody sees
    "\ud800-\udfff]"  # halves of a surrogate pair: no character, and UTF-8 cannot write them
)
_LEAVES_ITS_ELEMENT = re.compile("[<>&\u2028\u2029]")


def shown(text: str) -> str:
    """The text with characters that nobody would see, and that change what one sees, written as [U+202E]."""
    return _INVISIBLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


def script_json(value: object) -> str:
    r"""JSON for a script element: <, >, &, U+2028 and U+2029 are written \uXXXX, so that no text can end it."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _LEAVES_ITS_ELEMENT.sub(lambda match: f"\\u{ord(match[0]):04x}", plain)
