"""Show the number of a spreadsheet cell by its number format, as people see it. Knows no file; evaluates nothing.

Two things are simpler than in a spreadsheet program. A date is written in the order of ISO 8601 (2024-03-05 14:30) with
the parts that its format shows, since the order that people see depends on the machine they sit at. Conditions and
fractions are not read: such a number is shown plain.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

MAX_CODE_CHARS = 255  # the limit of spreadsheet programs
MAX_DECIMALS = 30  # likewise
LAST_DAY = 2_958_465  # 9999-12-31, the last date that there is

_DATE, _TIME, _BOTH = "yyyy-mm-dd", "hh:mm", "yyyy-mm-dd hh:mm"
BUILT_IN = {
    1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 11: "0.00E+00", 48: "##0.0E+0",
    5: "$#,##0", 6: "$#,##0", 7: "$#,##0.00", 8: "$#,##0.00", 42: "$#,##0", 44: "$#,##0.00",
    37: "#,##0;(#,##0)", 38: "#,##0;(#,##0)", 39: "#,##0.00;(#,##0.00)", 40: "#,##0.00;(#,##0.00)",
    41: "#,##0;(#,##0)", 43: "#,##0.00;(#,##0.00)", 17: "yyyy-mm", 55: "yyyy-mm", 22: _BOTH, 46: "[h]:mm:ss",
    45: "mm:ss", 47: "mm:ss", 18: _TIME, 19: "hh:mm:ss", 20: _TIME, 21: "hh:mm:ss", 32: _TIME, 33: "hh:mm:ss",
    34: _TIME, 35: "hh:mm:ss",
} | dict.fromkeys([14, 15, 16, *range(27, 32), 36, *range(50, 55), 56, 57, 58], _DATE)  # fmt: skip
"""Formats that a file names by number without spelling them out (ECMA-376 part 1, 18.8.30); the others are plain."""

# One thing after the other: quoted text, an escaped character, a width or filler, a bracket, a run of digits, the rest.
_TOKEN = re.compile(
    r"""(?P<quoted>"[^"]*"?)|\\(?P<escaped>.)|[_*].?|\[(?P<bracket>[^\]]*)\]?
    |(?P<general>[Gg]eneral)|(?P<exponent>[Ee][+-]0+)|(?P<halves>AM/PM|A/P|am/pm|a/p)
    |(?P<digits>[0\#?]+(?:,(?=[0\#?])[0\#?]+)*)|(?P<date>[yYmMdDhHsSeEgG]+)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN_DIGITS = re.compile(r"-?(?:0|[1-9]\d{0,29})", re.ASCII)


class _Section(NamedTuple):
    """A part of a format between semicolons, read."""

    kind: str  # "number", "date", "plain", "text"
    pieces: tuple[tuple[str, str], ...] = ()  # ("text" | "integer" | "decimals" | "exponent", what stands there)
    percent: int = 0
    thousands: bool = False
    scale: int = 0  # how many times to divide by a thousand


@lru_cache(maxsize=65_536)  # the same values stand in a column again and again
def shown(raw: str, code: str, *, from_1904: bool = False) -> str:
    """The number `raw` as the format `code` shows it; "" is the plain format. What is no number comes back as it is."""
    try:
        value = float(raw)
    except ValueError:
        return raw
    if value - value != 0:  # infinite, or not a number
        return raw
    sections = _sections(code if len(code) <= MAX_CODE_CHARS else "")
    has_own = value < 0 and len(sections) > 1
    section = sections[1 if has_own else 2 if value == 0 and len(sections) > 2 else 0]
    if section.kind == "date":
        return _moment(value, section, from_1904=from_1904) or _plain(raw, value)
    if section.kind == "number":
        text = _number(abs(value), section)
        return f"-{text}" if value < 0 and not has_own and any(each in "123456789" for each in text) else text
    if section.kind == "plain":
        number = _plain(raw.removeprefix("-"), abs(value)) if has_own else _plain(raw, value)
        return "".join(number if kind == "general" else text for kind, text in section.pieces).strip() or number
    return "".join(text for _, text in section.pieces).strip()


def _plain(raw: str, value: float) -> str:
    """A number in the plain format: up to 11 significant digits, but all digits of a whole number."""
    if _PLAIN_DIGITS.fullmatch(raw):
        return raw
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.11g}".replace("e", "E")


@lru_cache(maxsize=1024)
def _sections(code: str) -> tuple[_Section, ...]:
    sections: list[_Section] = []
    tokens: list[re.Match[str]] = []
    for token in _TOKEN.finditer(code):
        if token["other"] == ";":
            sections.append(_section(tokens))
            tokens = []
        else:
            tokens.append(token)
    return (*sections, _section(tokens))


def _section(tokens: list[re.Match[str]]) -> _Section:
    if any(token["date"] or re.fullmatch("[hHmMsS]+", token["bracket"] or "") for token in tokens):
        letters = "".join(token["date"] or (f"[{token['bracket']}" if token["bracket"] else "") for token in tokens)
        return _Section("date", (("text", letters.lower()),))
    if not tokens:
        return _Section("plain")
    pieces: list[tuple[str, str]] = []
    percent = scale = 0
    thousands = in_decimals = has_digits = False
    for token in tokens:
        other = token["other"] or ""
        if digits := token["digits"]:
            thousands |= "," in digits and not in_decimals
            pieces.append(("decimals" if in_decimals else "integer", digits.replace(",", "")))
            has_digits = True
        elif other == "." and not in_decimals:
            in_decimals = True
        elif other == "," and has_digits:
            scale += 1
        elif other == "/" and has_digits:
            return _Section("plain")
        else:
            percent += other == "%"
            pieces.append(_literal(token))
    if has_digits:
        return _Section("number", tuple(pieces), percent, thousands, scale)
    is_plain = any(kind == "general" for kind, _ in pieces) or any(token["other"] == "@" for token in tokens)
    return _Section("plain" if is_plain else "text", tuple(pieces))


def _literal(token: re.Match[str]) -> tuple[str, str]:
    if token["general"] or token["other"] == "@":
        return "general", ""
    if token["exponent"]:
        return "exponent", token["exponent"]
    bracket = token["bracket"] or ""
    currency = bracket[1:].partition("-")[0] if bracket.startswith("$") else ""
    return "text", (token["quoted"] or "").strip('"') or token["escaped"] or token["other"] or currency


def _number(value: float, section: _Section) -> str:
    value = value * 100**section.percent / 1000**section.scale
    decimals = "".join(text for kind, text in section.pieces if kind == "decimals")[:MAX_DECIMALS]
    exponent = next((text for kind, text in section.pieces if kind == "exponent"), "")
    tail = ""
    if exponent:
        mantissa, _, power = f"{value:.{len(decimals)}e}".partition("e")
        sign = "-" if power.startswith("-") else "+" * (exponent[1] == "+")
        value, tail = float(mantissa), f"E{sign}{abs(int(power)):0{len(exponent) - 2}d}"
    whole, _, fraction = f"{value:.{len(decimals)}f}".partition(".")
    required = len(decimals.rstrip("#?"))
    fraction = fraction[:required] + fraction[required:].rstrip("0")
    masks = [text for kind, text in section.pieces if kind == "integer"]
    shares = _shared_out(whole, masks, thousands=section.thousands)
    out: list[str] = []
    for position, (kind, text) in enumerate(section.pieces):
        if kind == "integer":
            out.append(shares.pop(0))
        elif kind == "text":
            out.append(text)
        is_last_digits = all(later not in {"integer", "decimals"} for later, _ in section.pieces[position + 1 :])
        if kind in {"integer", "decimals"} and is_last_digits:
            out.append((f".{fraction}" if fraction else "") + tail)
    return "".join(out).strip()


def _shared_out(whole: str, masks: list[str], *, thousands: bool) -> list[str]:
    """The digits of a whole number over the runs of placeholders, from the right; the first run takes what is left."""
    whole = whole.lstrip("0")
    shares: list[str] = []
    for position, mask in enumerate(reversed(masks)):
        is_first = position == len(masks) - 1
        cut = 0 if is_first else max(len(whole) - len(mask), 0)
        digits, whole = whole[cut:], whole[:cut]
        digits = digits.rjust(len(mask.lstrip("#?")), "0")
        shares.append(f"{int(digits):,}" if thousands and len(digits) == len(str(int(digits or 0))) else digits)
    return shares[::-1]


def _moment(days: float, section: _Section, *, from_1904: bool) -> str:
    """A date, a time or a duration, by the letters of its format; "" where it is none of them."""
    letters = section.pieces[0][1]
    seconds = round(days * 86_400) if abs(days) <= LAST_DAY else -1
    if seconds < 0:
        return ""
    with_seconds = "s" in letters
    clock = f"{seconds // 60 % 60:02d}" + (f":{seconds % 60:02d}" if with_seconds else "")
    if "[" in letters and "h" in letters:
        return f"{seconds // 3600}:{clock}"
    if not {"y", "d", "e", "g"} & set(letters) and ({"h", "s"} & set(letters)):
        return f"{seconds // 3600 % 24:02d}:{clock}" if "h" in letters else clock
    # Day 60 is 29 February 1900, which never was; programs agree on the days after it.
    origin = datetime(1904, 1, 1) if from_1904 else datetime(1899, 12, 31 if days < 60 else 30)  # noqa: DTZ001
    try:
        moment = origin + timedelta(seconds=seconds)
    except OverflowError:
        return ""
    date = f"{moment:%Y-%m-%d}" if moment.year >= 1000 else moment.date().isoformat()
    shows_day = "d" in letters or "h" in letters or not ({"y", "e"} & set(letters))
    date = date if shows_day else date[:7] if "m" in letters else date[:4]
    time_of_day = f"{moment:%H:%M:%S}" if with_seconds else f"{moment:%H:%M}"
    return f"{date} {time_of_day}" if "h" in letters else date
