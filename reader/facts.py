"""What a sentence states exactly: its numbers, dates and units, its names, whether it denies, which way it compares.

Knows English and Chinese words for these; nothing of scores. Numbers are compared by value, whatever way they are
written: 3,000 = 3000 = three thousand = 三千 = 0.3万, 5% = 5 percent = 百分之五, 3.5 million = 350万.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from retrieval.analyze import is_stop_word, simplified_characters

_ENUMERATOR = re.compile(r"\s*\d{1,3}[.)、]\s")
_ROUNDING = 0.05  # of its value is what rounding may take away or add: 3.2 million is not 3 million
_MOST_CHARS = 15  # of digits that a float keeps apart; a longer run is a code, and compared as text


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text, text[start:end]. kind: "year", "month", "percent", "money", "code", a unit's name, or "".

    step: what its last written place counts, 100,000 in "3.5 million". stated: False for what is seldom meant as a
    number ("one", "first", "second"): it can bear a claim out but needs no bearing out.
    """

    value: float
    kind: str
    step: float
    start: int
    end: int
    stated: bool = True
    code: str = ""


def holds(found: Number, wanted: Number) -> bool:
    """Whether a number of the evidence bears out a number of a claim: the same, or the same before rounding.

    Kinds must agree where both are known. A decade ("1990s") is borne out by any of its years.
    """
    if wanted.code or found.code:
        return wanted.code == found.code
    if not _agree(found.kind, wanted.kind):
        return False
    if wanted.kind == "decade":
        return wanted.value <= found.value < wanted.value + 10
    rounding = min(0.5 * wanted.step, _ROUNDING * abs(wanted.value)) if found.step < wanted.step else 0.0
    return found.value == wanted.value or abs(found.value - wanted.value) <= rounding + 1e-9 * abs(wanted.value)


def same_kind(one: Number, other: Number) -> bool:
    """Whether one number could stand in the place of the other."""
    return one.kind == other.kind or {one.kind, other.kind} == {"year", "decade"}


def _agree(one: str, other: str) -> bool:
    if one == other or {one, other} <= {"", "year", "decade"}:
        return True
    if {one, other} & {"month", "percent"}:
        return False
    return not one or not other or ("money" in (one, other) and {one, other} <= {"money", *_CURRENCIES})


# ---- numbers ---------------------------------------------------------------------------------------------------------

_SMALL = dict(
    zip(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "  # noqa: SIM905 - a list of words reads best as words
        "seventeen eighteen nineteen".split(),
        range(20),
        strict=True,
    )
)
_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))  # noqa: SIM905
_WORD_VALUES = {**_SMALL, **_TENS, "dozen": 12}
_SCALES = {
    "hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "mn": 1e6, "bn": 1e9, "tn": 1e12,
    "k": 1e3, "m": 1e6, "b": 1e9,
}  # fmt: skip
_ORDINALS = dict(
    zip(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(),  # noqa: SIM905
        range(1, 13),
        strict=True,
    )
)
_MONTHS = {
    name: number
    for number, names in enumerate(
        [
            "january jan",
            "february feb",
            "march mar",
            "april apr",
            "may",
            "june jun",
            "july jul",
            "august aug",
            "september sept sep",
            "october oct",
            "november nov",
            "december dec",
        ],
        start=1,
    )
    for name in names.split()
}
_CURRENCIES = ("dollar", "euro", "pound", "yuan", "yen")
_UNITS = {
    word: unit
    for unit, words in {
        "percent": "% ％ percent pct 个百分点",
        "dollar": "dollars dollar usd 美元 美金",
        "euro": "euros euro eur 欧元",
        "pound": "gbp 英镑",
        "yuan": "yuan rmb cny 元 人民币",
        "yen": "yen jpy 日元",
        "km": "km kilometers kilometres kilometer kilometre 公里 千米",
        "m": "meters metres meter metre 米",
        "cm": "cm centimeters centimetres 厘米",
        "mm": "mm millimeters millimetres 毫米",
        "mile": "miles mile mi 英里",
        "foot": "feet foot ft 英尺",
        "inch": "inches inch 英寸",
        "kg": "kg kilograms kilogram kilos 公斤 千克",
        "g": "grams gram 克",
        "mg": "mg milligrams 毫克",
        "ton": "tons tonnes ton tonne 吨",
        "litre": "liters litres liter litre 升",
        "second": "seconds sec secs 秒",
        "minute": "minutes minute mins 分钟",
        "hour": "hours hour hrs 小时",
        "day": "days day 天",
        "week": "weeks week 周 星期",
        "months": "months month 个月",
        "years": "years year 周年",
        "age": "岁",
        "KB": "kb",
        "MB": "mb",
        "GB": "gb",
        "TB": "tb",
        "°C": "°c ℃ 摄氏度",
        "°F": "°f 华氏度",
    }.items()
    for word in words.split()
}
_SIGNS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "money", "￥": "money"}

_SCALE_SPELLED_OUT = r"hundred|thousand|million|billion|trillion"
_HAN_DIGIT = "零〇一二两三四五六七八九"
_HAN_SCALE = "十百千万亿"
_LATIN_UNIT = "|".join(sorted((re.escape(unit) for unit in _UNITS if unit[0].isascii()), key=len, reverse=True))
_HAN_UNIT = "|".join(sorted((unit for unit in _UNITS if not unit[0].isascii()), key=len, reverse=True))

_DIGITS = re.compile(
    rf"""
    (?P<iso>(?<![\w.-])(?P<y>1\d{{3}}|2[01]\d\d)[-/.](?P<mo>0?[1-9]|1[0-2])[-/.](?P<d>0?[1-9]|[12]\d|3[01])(?![\w-]|\.\d))
  | (?P<sign>[$€£¥￥]\s?)?
    (?<![^\W\d_\u3400-\u9fff])(?<!\d[.,])(?<!\d)  # B12 is a name, and so is GPT-4; mid-1990s is none
    (?:(?<![^\W\d_\u3400-\u9fff][-_.])|(?=\d{{4}}s?\b))
    (?P<number>\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d+(?:\.\d+)*)
    (?P<ordinal>(?:st|nd|rd|th)\b)?
    (?P<decade>'?s\b)?
    (?:(?P<han>[十百千万亿]{{1,3}})|[\s-]?(?P<scale>(?:{_SCALE_SPELLED_OUT})s?\b)|(?P<short>(?:bn|mn|tn|[kKmMbB])\b))?
    (?:(?:\s?-?)(?P<unit>%|％|per\scent\b|(?:{_LATIN_UNIT})\b)|\s?(?P<hanunit>{_HAN_UNIT}|年|月))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SPELLED_OUT = re.compile(
    rf"""(?<!\d[\s-])\b(?P<words>(?:(?:a|(?:{"|".join(_WORD_VALUES)}|{_SCALE_SPELLED_OUT})s?)\b[\s-]{{1,2}}(?:and\s)?){{0,12}}
    (?:{"|".join(_WORD_VALUES)}|{_SCALE_SPELLED_OUT})s?)\b
    (?:[\s-](?P<unit>per\scent\b|(?:{_LATIN_UNIT})\b))?""",
    re.VERBOSE | re.IGNORECASE,
)
_HAN = re.compile(
    rf"(?P<per>百分之)?(?P<number>[{_HAN_DIGIT}{_HAN_SCALE}]+(?:点[{_HAN_DIGIT}]+)?)(?P<unit>{_HAN_UNIT}|年|月)?"
    r"(?P<counts>[日号个名人次种位所家篇章条项倍级层世])?"
)
_ORDINAL_WORD = re.compile(rf"\b({'|'.join(_ORDINALS)})\b", re.IGNORECASE)
_MONTH = re.compile(rf"\b({'|'.join(_MONTHS)})\b\.?", re.IGNORECASE)
_NEAR_A_DAY = re.compile(r"(?:\d(?:st|nd|rd|th)?,?(?:\s+of)?\s*$)|(?:^\s*,?\s*\d)", re.IGNORECASE)


def numbers(text: str) -> tuple[Number, ...]:
    """The numbers of a text in order of their places."""
    plain = _plain(text)
    found = [*_digits(plain), *_spelled_out(plain), *_months(plain), *_han(plain)]
    listed = _ENUMERATOR.match(plain)  # "4. The king": its place in a list
    return tuple(sorted((one for one in found if not listed or one.start >= listed.end()), key=lambda one: one.start))


def _plain(text: str) -> str:
    """One character for each: full width and traditional forms folded, so that offsets stay."""
    return text if text.isascii() else text.translate(_folded())


@cache
def _folded() -> dict[int, str]:
    return {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | simplified_characters()


def _digits(text: str) -> Iterator[Number]:
    for match in _DIGITS.finditer(text):
        start, end = match.span()
        if match["iso"]:
            yield Number(float(match["y"]), "year", 1.0, start, end)
            yield Number(float(match["mo"]), "month", 1.0, start, end)
            yield Number(float(match["d"]), "", 1.0, start, end)
        else:
            yield _of_digits(match, start, end)


def _of_digits(match: re.Match[str], start: int, end: int) -> Number:
    digits = match["number"].replace(",", "")
    if digits.count(".") > 1 or len(digits) > _MOST_CHARS:
        return Number(0.0, "code", 1.0, start, end, code=digits)
    scale = _SCALES.get((match["scale"] or "").lower().removesuffix("s"), 1.0)
    kind = _SIGNS.get((match["sign"] or "").strip(), "")
    unit = re.sub(r"\s", "", (match["unit"] or match["hanunit"] or "").lower())
    if short := (match["short"] or "").lower():
        if short == "m" and not kind:  # 5m is a length, $5m are millions
            kind = "m"
        else:
            scale = _SCALES[short]
    for each in match["han"] or "":
        scale *= _HAN_VALUES[each]
    kind = {"年": "year", "月": "month"}.get(unit) or _UNITS.get(unit) or kind
    places = len(digits.partition(".")[2])
    if not kind and scale == 1 and re.fullmatch(r"1\d{3}|2[01]\d\d", match["number"]):
        kind = "decade" if match["decade"] and digits.endswith("0") else "year"
    if kind == "year" and len(digits) < 3:  # 3年 is how long something took
        kind = "years"
    return Number(float(digits) * scale, kind, scale * 10.0**-places, start, end)


def _spelled_out(text: str) -> Iterator[Number]:
    for match in _SPELLED_OUT.finditer(text):
        words = [word for word in re.split(r"[\s-]+", match["words"].lower()) if word not in ("and", "a")]
        value, step = _value_of(words)
        start, end = match.span()
        unit = _UNITS.get(re.sub(r"\s", "", (match["unit"] or "").lower()), "")
        vague = match["words"].lower() == "one" or all(word.endswith("s") and word[:-1] in _SCALES for word in words)
        yield Number(value, unit, step, start, end, stated=not vague)
    for match in _ORDINAL_WORD.finditer(text):
        yield Number(float(_ORDINALS[match[1].lower()]), "", 1.0, *match.span(), stated=False)


def _value_of(words: Sequence[str]) -> tuple[float, float]:
    """two hundred fifty thousand -> 250,000, and what the last place counts: 1,000."""
    total = current = 0.0
    step = 1.0
    for word in words:
        base = word if word in _WORD_VALUES or word in _SCALES else word.removesuffix("s")
        if base in _WORD_VALUES:
            value = float(_WORD_VALUES[base])
            current = current * value if base == "dozen" and current else current + value
            step = 1.0
        elif base == "hundred":
            current, step = (current or 1.0) * 100, 100.0
        else:
            total, current, step = total + (current or 1.0) * _SCALES[base], 0.0, _SCALES[base]
    return total + current, step


def _months(text: str) -> Iterator[Number]:
    """Names of months that stand beside a day or a year, or are no other word."""
    for match in _MONTH.finditer(text):
        name = match[1].lower()
        start, end = match.span()
        beside = _NEAR_A_DAY.search(text[max(0, start - 8) : start]) or _NEAR_A_DAY.match(text[end : end + 4])
        if beside or (len(name) > 3 and name != "march" and match[1][0].isupper()):
            yield Number(float(_MONTHS[name]), "month", 1.0, start, end)


_HAN_VALUES = {"十": 10.0, "百": 1e2, "千": 1e3, "万": 1e4, "亿": 1e8}
_HAN_DIGITS = dict(zip(_HAN_DIGIT, (0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9), strict=True))


def _han(text: str) -> Iterator[Number]:
    for match in _HAN.finditer(text):
        written = match["number"]
        if match.start() and text[match.start() - 1].isdigit():  # 3.5万: read with its digits
            continue
        if written[0] in "百千万亿" and not match["per"]:  # 万 alone is no number: 千万, 万一, 百科
            continue
        value, step = _value_of_han(written)
        kind = "percent" if match["per"] else _UNITS.get(match["unit"] or "", "")
        if match["unit"] == "年":
            kind = "year" if value >= 100 else "years"
        if match["unit"] == "月":
            kind = "month"
        stated = bool(match["per"] or len(written) > 1 or match["unit"] or (match["counts"] and written != "一"))
        end = match.end("counts") if match["counts"] and not match["unit"] else match.end()
        yield Number(value, kind, step, match.start(), end, stated=stated)


def _value_of_han(written: str) -> tuple[float, float]:
    """三千五百万 -> 35,000,000; 二〇二四 -> 2024; 三点五 -> 3.5; and what the last place counts."""
    whole, _, fraction = written.partition("点")
    if not any(each in _HAN_VALUES for each in whole):
        value = float("".join(str(_HAN_DIGITS[each]) for each in whole[:_MOST_CHARS]) or "0")
        step = 1.0
    else:
        value, step = _with_scales(whole)
    if fraction:
        digits = "".join(str(_HAN_DIGITS[each]) for each in fraction[:_MOST_CHARS])
        value, step = value + float("0." + digits), 10.0 ** -len(digits)
    return value, step


def _with_scales(whole: str) -> tuple[float, float]:
    total = section = digit = 0.0
    step = 1.0
    for each in whole:
        if each in _HAN_DIGITS:
            digit, step = float(_HAN_DIGITS[each]), 1.0
        elif each in "万亿":
            total = (total + section + digit or 1.0) * _HAN_VALUES[each]
            section, digit, step = 0.0, 0.0, _HAN_VALUES[each]
        else:
            section += (digit or 1.0) * _HAN_VALUES[each]
            digit, step = 0.0, _HAN_VALUES[each]
    return total + section + digit, step


# ---- words, names, denials, directions -------------------------------------------------------------------------------

_LATIN = "A-Za-z\u00c0-\u024f"
_NAME = re.compile(rf"(?<![{_LATIN}\d.])[A-Z\u00c0-\u00de](?:[{_LATIN}\d-]*[{_LATIN}\d])")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;]\s+|\n)[\"'“‘(\[*_]*$")


def names(text: str) -> tuple[str, ...]:
    """Capitalised words that do not merely open a sentence; Latin words inside Chinese text."""
    return tuple(
        match[0]
        for match in _NAME.finditer(text)
        if not is_stop_word(match[0]) and not _SENTENCE_START.search(text[max(0, match.start() - 8) : match.start()])
    )


DENIED = "¬"
_WORD = re.compile(f"{DENIED}|[\u3400-\u9fff]|[^\\W_\u3400-\u9fff]+(?:[.,]\\d+)*")
_DENIAL = re.compile(
    r"\b(?:not|no(?!\.?\s?\d)|never|none|nobody|nothing|neither|nor|without|cannot|lacks?|lacking|fails?|failed|unable|unlike)\b"
    r"|n[’']t\b|不(?!仅|但|过|同|少|断|久|只|管|论|得不)|没有?|未(?!来)|无(?!论|数|疑|线)|非(?=是|常规)|毫无|并非",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """Every word, stop words too, and every Chinese character; all denials as one word, DENIED.

    Case, width and traditional forms are folded.
    """
    plain = _DENIAL.sub(f" {DENIED} ", _plain(unicodedata.normalize("NFKC", text)))
    return _WORD.findall(re.sub(r"(?<=\d),(?=\d{3})", "", plain.casefold()))


_OPPOSITES = (
    (
        "increase increases increased increasing rise rises rose rising grow grows grew growing"
        "|decrease decreases decreased decreasing fall falls fell falling decline declines declined declining dropped"
    ),
    "more greater higher larger bigger above|less fewer lower smaller below",
    "before earlier|after later",
    "first|last",
    "north northern|south southern",
    "east eastern|west western",
    "win wins won|lose loses lost",
    "start starts started begin begins began opened|end ends ended finish finished closed",
    "maximum most|minimum least",
    "positive|negative",
    "better|worse",
    "older|younger",
    "best|worst",
    "improve improves improved|worsen worsens worsened",
    "allow allows allowed|forbid forbids forbade forbidden ban bans banned prohibit prohibits prohibited",
    "accept accepts accepted|reject rejects rejected refuse refused",
    "always|never",
    "增加 增长 上升 提高 升高 上涨 增多|减少 下降 降低 下跌 缩小",
    "高于 大于 多于 超过|低于 小于 少于 不足",
    "之前 以前|之后 以后",
    "最大 最高 最多|最小 最低 最少",
    "北部 北方|南部 南方",
    "东部 东方|西部 西方",
    "胜利 获胜 赢得|失败 落败 输掉",
    "允许|禁止",
)


@cache
def _sides() -> dict[str, tuple[tuple[int, int], ...]]:
    """Each word of _OPPOSITES with the pairs it is of and its side in each."""
    found: dict[str, tuple[tuple[int, int], ...]] = {}
    for pair, both in enumerate(_OPPOSITES):
        for side, words in enumerate(both.split("|")):
            for word in words.split():
                found[word] = (*found.get(word, ()), (pair, side))
    return found


@cache
def _opposite_words() -> re.Pattern[str]:
    words = sorted(_sides(), key=len, reverse=True)
    latin, han = ([word for word in words if word.isascii() is ascii_] for ascii_ in (True, False))
    return re.compile(rf"\b(?:{'|'.join(latin)})\b|{'|'.join(han)}", re.IGNORECASE)


def reversed_words(claim: str, evidence: str) -> bool:
    """Whether a claim's word of direction (increase, before, 高于) stands in the evidence only as its opposite."""
    wanted, found = _directions(claim), _directions(evidence)
    return any((pair, side) not in found and (pair, 1 - side) in found for pair, side in wanted)


def _directions(text: str) -> frozenset[tuple[int, int]]:
    words = (match[0].lower() for match in _opposite_words().finditer(_plain(text)))
    return frozenset(each for word in words for each in _sides()[word])
