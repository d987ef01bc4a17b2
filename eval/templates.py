"""Turn a sentence into questions that it answers, by its form alone. Knows English and Chinese patterns; no corpus.

Each template reads off what a sentence says of its subject and asks for that part: "X is a Y" answers "What is X?". A
sentence that fits none gives nothing: a question that reads badly is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from retrieval.analyze import simplified_characters


class Draft(NamedTuple):
    """A question without its mark, and its answer, word for word from the sentence.

    about: the phrase that says what is asked about.
    """

    kind: str
    question: str
    answer: str
    about: str


def drafts(sentence: str, *, language: str) -> Iterator[Draft]:
    """Every question that a sentence of plain words answers. In English its first word is written as inside one."""
    if language != "zh":
        return _english(sentence)
    simplified = sentence.translate(simplified_characters())
    return _chinese(sentence) if simplified == sentence else _traditional(sentence, simplified)


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# ---- English ---------------------------------------------------------------------------------------------------------

_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = rf"(?:(?:{_MONTH}\s+\d{{1,2}},\s+|\d{{1,2}}\s+{_MONTH}\s+|{_MONTH}(?:\s+of)?\s+)?(?:1[0-9]|20)\d\d)"
_BE = r"(?:is|are|was|were)"
_ADVERB = (
    r"(?:(?:also|often|usually|commonly|typically|generally|mainly|primarily|mostly|originally|officially|currently|"
    r"first|widely|only|always|sometimes|then|now|traditionally|specifically|largely|initially|normally|frequently|"
    r"simply|formally|essentially|basically|later|automatically|fully|solely|heavily)\s+)?"
)
_IRREGULAR = (
    "known born written made built held won led given taken shown found set run sold chosen drawn driven sent bought "
    "brought drawn kept left lost met paid put read said seen spoken spent taught thought told understood worn grown "
    "thrown bound broken begun cut hit split spread stolen struck sung"
)
_PARTICIPLE = rf"(?:[a-z]+(?:-[a-z]+)?ed|{_IRREGULAR.replace(' ', '|')})"
_RELATION = (
    r"(?:responsible for|similar to|equivalent to|equal to|different from|due to|part of|home to|capable of|"
    r"available (?:in|for|from|as|on)|compatible with|subject to|based on|derived from|suitable for|useful for|"
    r"ideal for|famous for|short for|native to)"
)
_FUNCTION = _words(
    "that which who whom whose what when where while why how if because although though since unless whether until "
    "than as so but or nor then thus hence there here not later ago earlier"
)
_PRONOUN = _words(
    "i he she it we they you this these those that him her them his its their our my your us one ones some many most "
    "several each every all both none another other others such someone something nobody everyone everything either "
    "neither few much more any no former latter anything anyone itself same nothing"
)
_FINITE = _words(
    "is are was were be been being has have had do does did can could will would shall should may might must "
    "died became made took gave went came saw led won lost held wrote built began ran left found got said says made "
    "became rose fell grew knew met sent paid spent kept told felt brought bought thought fought taught spoke chose "
    "broke drew drove flew wore threw let lets allow allows make makes use uses get gets need needs want wants "
    "contains contain provides provide returns return means mean looks look seems seem appears appear"
)
_ENDS_BADLY = _words(
    "and or of in on at for with to from by the a an into as than between through during about over under only also "
    "very more most via per upon then"
)
_BEGINS_BADLY = _words(
    "and or of in on at for with to from by as into than between through during about over under only also via per "
    "upon then among amid prior once after before near behind beyond despite like unlike inside outside within without "
    "until throughout along across around against toward towards regarding concerning according further how please "
    "two three four five six seven eight nine ten north south east west left right next back up down out yes no "
    "sometimes often usually perhaps maybe even just instead recently today tomorrow yesterday likewise"
)
_CONTENTLESS = _words(
    "reason result problem following first second third last next example idea goal purpose answer question point "
    "thing difference way case fact exception rest latter former solution aim time name advantage drawback issue "
    "thing things following steps step table figure list section chapter page topic task tutorial guide example "
    "examples above below end beginning main only best same other others default value values types activities"
)

_VERBS = (
    "provide/provides/provided, contain/contains/contained, include/includes/included, "
    "return/returns/returned, raise/raises/raised, represent/represents/represented, "
    "describe/describes/described, define/defines/defined, denote/denotes/denoted, support/supports/supported, "
    "require/requires/required, introduce/introduces/introduced, enable/enables/enabled, "
    "specify/specifies/specified, determine/determines/determined, implement/implements/implemented, "
    "combine/combines/combined, produce/produces/produced, generate/generates/generated, accept/accepts/accepted, "
    "offer/offers/offered, cover/covers/covered, create/creates/created, perform/performs/performed, "
    "handle/handles/handled, control/controls/controlled, measure/measures/measured, "
    "evaluate/evaluates/evaluated, display/displays/displayed, achieve/achieves/achieved, cause/causes/caused, "
    "indicate/indicates/indicated, use/uses/used, replace/replaces/replaced, receive/receives/received, "
    "feature/features/featured, develop/develops/developed, establish/establishes/established, "
    "invent/invents/invented, discover/discovers/discovered, win/wins/won, publish/publishes/published, "
    "release/releases/released, propose/proposes/proposed, affect/affects/affected, prevent/prevents/prevented, "
    "own/owns/owned, operate/operates/operated, employ/employs/employed, explain/explains/explained, "
    "possess/possesses/possessed, lack/lacks/lacked, write/writes/wrote, build/builds/built, sign/signs/signed, "
    "join/joins/joined, study/studies/studied, teach/teaches/taught, adopt/adopts/adopted, open/opens/opened, "
    "comprise/comprises/comprised, store/stores/stored, extend/extends/extended, "
    "refer to/refers to/referred to, consist of/consists of/consisted of, stand for/stands for/stood for, "
    "default to/defaults to/defaulted to, depend on/depends on/depended on, belong to/belongs to/belonged to, "
    "lead to/leads to/led to, result in/results in/resulted in, correspond to/corresponds to/corresponded to, "
    "rely on/relies on/relied on, evaluate to/evaluates to/evaluated to, apply to/applies to/applied to, "
    "focus on/focuses on/focused on, aim to/aims to/aimed to, serve as/serves as/served as, "
    "work with/works with/worked with, deal with/deals with/dealt with, derive from/derives from/derived from"
)
"""Base, third person and past of each."""

_FORMS = {
    form: (base, auxiliary)
    for base, third, past in (entry.split("/") for entry in _VERBS.split(", "))
    for form, auxiliary in ((past, "did"), (third, "does"), (base, "do"))
}
_FORM = "|".join(sorted(_FORMS, key=len, reverse=True))
_PERSON = re.compile(
    r"\b(?:\w+(?:ist|ician|grapher|ologist)|theologian|historian|mathematician|comedian|musician|king|queen|emperor|"
    r"president|pope|saint|politician|actor|actress|singer|author|writer|poet|painter|lawyer|engineer|player|general|"
    r"officer|leader|founder|director|philosopher|inventor|composer|minister|professor|teacher|bishop|philanthropist|"
    r"businessman|businesswoman|footballer|explorer|soldier|commander|chair|chairman|head|member|quarterback|"
    r"linebacker|cornerback|coach|duke|governor|senator|son|daughter|wife|husband|brother|sister|astronaut|architect|reformer|missionary|monk)\b",
    re.IGNORECASE,
)
_CONNECTIVE = re.compile(
    r"(?:However|Therefore|Thus|Moreover|Furthermore|Additionally|In addition|Also|Hence|Finally|Nevertheless|"
    r"Consequently|Similarly|Currently|Today|Generally|In general|Typically|Usually|Specifically|By default|"
    r"As a result|In fact|Note that|Note|Historically|Basically|Essentially|Importantly|Remember that|Notably),?\s+",
)
_SUBJECT = r"(?P<subject>[^,;:()]{2,70}?)"
_THIRD = r"(?:is|are|was|were|has|have|had)"
_CLAUSE = (
    r",?\s+(?:e\.g|i\.e|which|who|whose|where|while|whereas|although|though|because|since|unless|but|so that|such as"
    r"|and then)\b"
)
_COMMA = (
    rf",\s+(?:(?:and|or)\s+(?:{_THIRD}|he|she|it|they|the)|as|with|in|on|at|by|after|before|if|when|for|from|to|then|so"
    r"|making|being|having|allowing|\w+ing)\b"
)
_AND = (
    rf"\s+and\s+(?:(?:{_THIRD}|can|it|they|he|she)\b|(?:(?:the|an?)\s+)?\w+\s+{_THIRD}\b"
    r"|[a-z]+s\s+(?:the|an?|over|its|their|about|more|it|from|to)\b)"
)
_CUT = re.compile(rf"(?:{_CLAUSE}|{_COMMA}|{_AND}|\s+-\s+|\s*[–—]\s*(?=[a-z])|[;:(]|\.\s).*$")
"""Where what is said of a subject ends and something else begins."""


def _english(sentence: str) -> Iterator[Draft]:
    text = _CONNECTIVE.sub("", sentence, count=1).rstrip(" .!。")
    for template in _ENGLISH:
        yield from template(text)


def _subject(raw: str) -> str | None:
    """A noun phrase to ask about, its article in small letters; None for what needs the text around it, or is none."""
    words = raw.split()
    low = [word.lower().strip("\"'") for word in words]
    if not 1 <= len(words) <= 9 or low[0] in _PRONOUN or low[-1] in _ENDS_BADLY or low[0] in _BEGINS_BADLY:
        return None
    if set(low) & {*_FUNCTION, *_FINITE, *_PRONOUN} or re.match(r"[A-Za-z]+(?:ing|ly)$", words[0]):
        return None
    if any(re.fullmatch(r"[a-z]+ed", one) and low[n + 1] in _ENDS_BADLY for n, one in enumerate(words[:-1])):
        return None
    nouns = [one for one in low if one not in ("the", "a", "an", "notable", "possible", "other", "main", "first")]
    if not nouns or (len(nouns) == 1 and nouns[0] in _CONTENTLESS):
        return None
    return " ".join(words)


_VAGUE = re.compile(r"\b[Tt]he [a-z]+(?:$|\s(?:in|on|at|to|by|for|from|and|with|is|was|are|were|has|have|of the)\b)")


def is_generic(about: str) -> bool:
    """Whether a phrase names nothing by itself ("the book"): no name, figure, quotes or identifier is in it."""
    if not about:
        return True
    if re.search("[\u4e00-\u9fff]", about):
        return bool(_GENERIC_ZH.search(about.translate(simplified_characters()))) and not re.search(
            "[《“「A-Za-z0-9]", about
        )
    return not re.search(r"[A-Z0-9_\"`.“”]|\w[A-Z]", about) or bool(_VAGUE.search(about))


def _answer(raw: str, *, most: int = 25) -> str | None:
    """The part of a predicate that can stand as an answer."""
    text = _CUT.sub("", raw).strip(" ,\"'")
    words = text.split()
    if not 1 <= len(words) <= most or words[-1].lower() in _ENDS_BADLY:
        return None
    if re.search(r"\b(?:this|these|those|above|below|following|here|we|our|I|my)\b", text) or text.lower() in _PRONOUN:
        return None
    if text.count("(") != text.count(")") or text.count('"') % 2:
        return None
    return text


_Template = Callable[[str], Iterator[Draft]]


def _definition(text: str) -> Iterator[Draft]:
    found = re.match(rf"{_SUBJECT}\s+(?P<be>{_BE})\s+{_ADVERB}(?P<rest>(?:an?|the|one of)\s.+)", text)
    if not found or not (subject := _subject(found["subject"])):
        return
    answer = _answer(found["rest"])
    if answer is None or len(answer.split()) < 3 or re.match(r"(?:the same|a lot|the (?:only|case|most)\b)", answer):
        return
    named = not subject.startswith("the ") and all(word[0].isupper() for word in subject.split() if len(word) > 3)
    person = named and _PERSON.search(" ".join(answer.split()[:8]))
    yield Draft("definition", f"{'Who' if person else 'What'} {found['be']} {subject}", answer, subject)


_NO_COMPLEMENT = re.compile(
    r"(?:its|their|his|her|it|them|all|any|each|be|well|early|far|soon|much|follows|one|the (?:level|end|time|same))\b"
)


def _relation(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"{_SUBJECT}\s+(?P<be>{_BE}|can be|should be|must be|has been|have been)\s+{_ADVERB}"
        rf"(?P<how>{_RELATION}|{_PARTICIPLE}\s+(?:on|of|to|from|with|for|as|into|after|through|via|by|in|at))\s+"
        r"(?P<rest>.+)",
        text,
    )
    if not found or not (subject := _subject(found["subject"])):
        return
    answer, how = _answer(found["rest"], most=18), found["how"]
    if answer is None or _NO_COMPLEMENT.match(answer):
        return
    lead, _, last = found["be"].partition(" ")
    between = f"{lead} {subject} {last}".strip()
    verb, _, preposition = how.rpartition(" ")
    if verb == "used" and preposition in ("to", "for"):
        if " " in answer:
            yield Draft("purpose", f"What {between} used for", answer, subject)
    elif preposition in ("in", "at", "on") and (date := re.match(rf"(?:the\s+)?({_DATE})(?![\w-])", found["rest"])):
        yield Draft("date", f"When {between} {verb}", date[1], subject)
    elif preposition in ("in", "at"):
        if verb in ("located", "situated", "born", "based", "held", "stored", "buried", "headquartered", "found"):
            yield Draft("place", f"Where {between} {verb}", answer, subject)
    elif preposition == "by":
        if not re.match(r"\w+ing\b|\d", answer):
            yield Draft("agent", f"{'Who' if answer[0].isupper() else 'What'} {between} {how}", answer, subject)
    elif preposition == "to" and verb in _TO_DO:
        if _infinitive(answer):
            yield Draft("relation", f"What {between} {how} do", answer, subject)
    else:
        yield Draft("relation", f"What {between} {how}", answer, subject)


_TO_DO = _words(
    "designed intended expected required shown trained meant developed built introduced created made changed planned "
    "known supposed allowed scheduled forced said believed thought found observed needed encouraged funded signed "
    "tuned optimized configured programmed tasked able written set established"
)


def _infinitive(answer: str) -> bool:
    """Whether the answer goes on with a verb ("to make ..."): no article, name or plural begins it."""
    first = answer.split(maxsplit=1)[0]
    return first.islower() and first not in ("the", "a", "an") and not first.endswith("s")


def _passive_date(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?:[Ii]n|[Oo]n)\s+(?P<date>{_DATE}),\s+{_SUBJECT}\s+(?P<be>was|were)\s+{_ADVERB}(?P<rest>{_PARTICIPLE}\b.*)",
        text,
    ) or re.match(
        rf"{_SUBJECT}\s+(?P<be>was|were)\s+{_ADVERB}(?P<rest>{_PARTICIPLE}\b[^,;:()]*?)\s+(?:in|on)\s+(?P<date>{_DATE})"
        r"(?![\w-])",
        text,
    )
    if not found or not (subject := _subject(found["subject"])):
        return
    if rest := _tail(found["rest"]):
        yield Draft("date", f"When {found['be']} {subject} {rest}", found["date"], subject)


def _active_date(text: str) -> Iterator[Draft]:
    for pattern in (
        rf"(?:[Ii]n|[Oo]n)\s+(?P<date>{_DATE}),\s+{_SUBJECT}\s+(?P<verb>{_FORM})\s+(?P<rest>.+)",
        rf"{_SUBJECT}\s+(?P<verb>{_FORM})\s+(?P<rest>[^,;:()]+?)\s+(?:in|on)\s+(?P<date>{_DATE})(?![\w-])",
    ):
        found = re.match(pattern, text)
        if found and _FORMS[found["verb"]][1] == "did" and (subject := _subject(found["subject"])):
            rest = _tail(found["rest"])
            if rest and not re.search(rf"\b{_BE}\b", rest):
                question = f"When did {subject} {_FORMS[found['verb']][0]} {rest}"
                yield Draft("date", question, found["date"], subject)
            return


def _tail(rest: str, *, most: int = 14) -> str | None:
    """What follows the verb, whole enough to stand in a question."""
    text = re.sub(r",.*$", "", _CUT.sub("", rest)).strip(" ,")
    words = text.split()
    whole = 1 <= len(words) <= most and words[-1].lower() not in _ENDS_BADLY
    return text if whole and not {"that", "there", "then"} & set(words) else None


_COUNT = (
    r"(?P<count>\d{1,3}(?:,\d{3})*(?:\.\d+)?(?:\s+(?:million|billion|thousand))?|two|three|four|five|six|seven|eight|nine"
    r"|ten|eleven|twelve|twenty|thirty|forty|fifty)"
)
_COUNTED = r"(?P<noun>(?:[a-z]+(?:-[a-z]+)?\s+){0,2}[a-z]+s)\b(?!\s+(?:old|later|ago|after|before|away|per)\b)"
_ABOUT = (
    r"(?:(?:about|around|approximately|over|more than|at least|up to|roughly|nearly|almost|some|only|exactly|a total of"
    r"|as many as)\s+)?"
)


def _how_many(text: str) -> Iterator[Draft]:
    have = re.match(rf"{_SUBJECT}\s+(?P<verb>has|have|had|{_FORM})\s+{_ABOUT}{_COUNT}\s+{_COUNTED}(?P<rest>.*)", text)
    if have and (subject := _subject(have["subject"])) and _countable(have["noun"]):
        base, auxiliary = {"has": ("have", "does"), "have": ("have", "do"), "had": ("have", "did")}.get(
            have["verb"]
        ) or _FORMS[have["verb"]]
        rest = _tail(have["rest"], most=8)
        question = f"How many {have['noun']} {auxiliary} {subject} {base} {rest or ''}".strip()
        if rest is not None or not have["rest"].strip() or have["rest"].lstrip()[0] in ",:;(":
            yield Draft("number", question, have["count"], subject)
    there = re.match(
        rf"[Tt]here\s+(?P<be>are|were)\s+{_ABOUT}{_COUNT}\s+{_COUNTED}\s+(?P<rest>(?:in|on|at|for|of)\s.+)", text
    )
    if there and (rest := _tail(there["rest"])) and _countable(there["noun"]):
        yield Draft("number", f"How many {there['noun']} {there['be']} there {rest}", there["count"], rest)
    first = re.match(
        rf"{_ABOUT}{_COUNT}\s+{_COUNTED}\s+(?P<rest>(?:were|are|have been|had been)\s.+)", text, re.IGNORECASE
    )
    if first and (rest := _tail(first["rest"])) and _countable(first["noun"]) and len(rest.split()) > 3:
        yield Draft("number", f"How many {first['noun']} {rest}", first["count"], rest)


_NOT_COUNTED = _FUNCTION | _words("of the a times is was has does as its percent years")


def _countable(noun: str) -> bool:
    return not set(noun.split()) & _NOT_COUNTED


_NO_OBJECT = re.compile(
    r"(?:that|its?|their|his|her|them|to|by|in|on|of|it|as|over|under|for|from|with|at|into|include|not|is|are|was|were|has|had|out|up|during|when|\w+ly)\b"
    r"|.*(?<!that )(?<!which )\b(?:was|were)\b"
)


def _verb(text: str) -> Iterator[Draft]:
    found = re.match(rf"{_SUBJECT}\s+{_ADVERB}(?P<verb>{_FORM})\s+(?P<rest>.+)", text)
    if not found or not (subject := _subject(found["subject"])):
        return
    base, auxiliary = _FORMS[found["verb"]]
    answer = _answer(found["rest"], most=20)
    if answer is None or _NO_OBJECT.match(answer) or len(re.sub(r"^(?:the|an?)\s", "", answer).split()) < 2:
        return
    singular = not re.search(r"[^s]s$", re.split(" (?:of|in) ", subject)[0])
    if auxiliary == "do" and singular:
        return
    if auxiliary == "does" and " and " in subject:
        return
    question = f"What {auxiliary} {subject} {base}"
    yield Draft("object", question, answer, subject)


_NO_CONDITION = re.compile(
    r"\b(?:this|that|these|those|it|they|we|he|she)\b|^(?:not\s+)?\w+(?:ed|ing|ly)\b|^(?:in|on|at|any|so|used|called|run|"
    r"\w+(?:ble|ary))\b|^(?:(?!\b(?:is|are|was|were|has|have|had|does|do|can|cannot|must|want|need|use|\w+s|\w+ed)\b).)*$"
)


def _what_happens(text: str) -> Iterator[Draft]:
    found = re.match(r"(?P<word>[Ii]f|[Ww]hen)\s+(?P<condition>[^,;:()]{12,140}),\s+(?:then\s+)?(?P<rest>.+)", text)
    if not found or _NO_CONDITION.search(found["condition"]):
        return
    answer = _answer(found["rest"], most=30)
    if answer is None or len(answer.split()) < 4 or re.match(r"(?:\w+ed|or|and|such|so|even)\b", answer):
        return
    condition = found["condition"]
    wanted = re.match(r"you (?:want|need|would like|wish) to (.+)", condition)
    if re.match(rf"(?:please\s+)?(?:{_IMPERATIVE})\b|you (?:can|should|need|must|may|could|have to)\b", answer):
        if wanted and not re.match(r"be\b", wanted[1]):
            yield Draft("how", f"How can you {wanted[1]}", answer, condition)
        else:
            yield Draft("how", f"What should you do {found['word'].lower()} {condition}", answer, condition)
    elif (
        not wanted
        and re.search(rf"\b(?:{_BE}|has|have|will|can|must|[a-z]+(?:s|ed))\b", answer)
        and not answer.startswith("you ")
    ):
        past = re.search(r"\b(?:was|were|had|became)\b|[a-z]ed$", condition) and not re.search(
            r"\b(?:is|are|has)\b", condition
        )
        happens = "happened" if past and found["word"].lower() == "when" else "happens"
        yield Draft("condition", f"What {happens} {found['word'].lower()} {condition}", answer, condition)


_IMPERATIVE = (
    "use|call|set|run|pass|add|create|install|load|make|specify|import|define|enable|try|choose|select|click|go|open|"
    "write|provide|simply|check|see|wrap|apply|start|follow|instantiate|initialize|build|configure|change|replace"
)


def _how_to(text: str) -> Iterator[Draft]:
    found = re.match(
        r"[Tt]o\s+(?P<goal>[a-z]+\s[^,;:()]{6,120}),\s+"
        rf"(?P<rest>(?:you\s+(?:can|should|need|must|will|could|have)|(?:{_IMPERATIVE})\b).+)",
        text,
    )
    if not found or re.search(r"\b(?:this|that|these|those|it|them|they|we|our)\b", found["goal"]):
        return
    answer = _answer(found["rest"], most=30)
    if answer and len(answer.split()) > 2 and not re.search(r"\bsee\b", answer):
        yield Draft("how", f"How do you {found['goal']}", answer, found["goal"])


def _why(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"{_SUBJECT}\s+(?P<be>{_BE}|can|cannot|must|should|could|may)\s+(?P<rest>[^,;:()]+?)"
        r",?\s+because\s+(?P<why>(?!of\b).+)",
        text,
    )
    if not found or not (subject := _subject(found["subject"])):
        return
    answer, rest = _answer(found["why"], most=30), _tail(found["rest"])
    if answer and rest and len(answer.split()) > 2:
        yield Draft("reason", f"Why {found['be']} {subject} {rest}", answer, subject)


def _when_passive(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"{_SUBJECT}\s+(?P<be>is|are)\s+{_ADVERB}(?P<verb>{_PARTICIPLE})\s+"
        r"(?P<answer>(?:if|when|unless|only when|only if)\s.+)",
        text,
    )
    if not found or not (subject := _subject(found["subject"])):
        return
    answer = _answer(found["answer"])
    if answer and len(answer.split()) > 3:
        yield Draft("condition", f"When {found['be']} {subject} {found['verb']}", answer, subject)


_ENGLISH: tuple[_Template, ...] = (
    _passive_date, _active_date, _how_many, _how_to, _what_happens, _why, _when_passive, _definition, _relation, _verb,
)  # fmt: skip


# ---- Chinese ---------------------------------------------------------------------------------------------------------

_YEAR_DATE = r"(?:公元前?)?\d{2,4}\s?年(?!代)(?:\s?\d{1,2}\s?月(?:\s?\d{1,2}\s?[日号])?)?"
_CLAUSE_END = r"(?=[，。；！]|$)"
_NO_SUBJECT = re.compile(
    r"[，。；：:、！？（）()\"“”这那]|^[^\w《「]"
    r"|认为|表示|就|都|也|而|会|能|可以|因|如果|虽|即使|只要|使|让|被|将|已|曾|没|无法|不|是|有|为|年|月|日|了|着|要|说|称"
    r"|位于|全长|通过|提供|支持|用于|推出(?!的)|应该|[一二两三]种|并非|间$|(?<!第.)对(?!应|象|外|话|手|抗|联)"
    r"|^(?:当|从|在|由|对|把|以|于|按|根据|随|自|每|一|两|很|更|最|只|除|关于|至|到|过|用|给|像|与|和|或|及|需|想|什么|哪"
    r"|但|作为|后|前|之|唯一|目的|原因|目标|问题|结果|例子|所|如需|如何|配置|创建|真正|默认|必须|同样|建议|实现|混合|另"
    r"|尽管|考虑|欢迎|感谢|尝试|选择|正如|正式|阅读)"
    r"|(?:和|与|的|在|对|从|以|还|再|只|可|上|则|便|即|原|尤其|主要|起先|起初|最初|原本|本来|曾经|目前|一直|仍然|默认|建议"
    r"|同样|必须|仅需|如需|混合|直接|创建|配置|实现|一般|本质上|原生|在于|正式|如想|大约需?|划|改|分别|包含|开始)$"
)
_PERSON_ZH = re.compile(
    r"(?:家|员|[记作学笔]者|领导者|师|人|手|官|王|帝|后|总统|首相|将军|教授|导演|主持|偶像|主席|大臣|太子|妃|将领|声优|之子"
    r"|之女)$"
)
_GENERIC_ZH = re.compile(
    r"^[\u3400-\u9fff]{1,4}$"
    r"|^(?:模型|数据|方法|任务|函数|参数|文件|用户|目标|步骤|结果|代码|学校|公司|游戏|电影|专辑|车站|全)"
)
_ZH_OBJECT_VERBS = (
    "提供|支持|包含|包括|返回|代表(?!队|团|人|作)|使用|采用|允许|需要|接受|负责|描述|定义|指的是|意味着|基于|依赖于|取决于|属于|得名于|改编自|"
    "分为|担任|拥有|推出|发明|实现|引入|引起|导致|隶属于|来源于|源于|起源于|盛产|出土|供奉|栖息于|生活在|分布于|应用于|适用于"
)
_ZH_MAKERS = (
    "开发|研发|设计|创作|建造|兴建|发行|制作|编写|创建|创立|创办|执导|主演|演唱|作曲|作词|管理|负责|提出|发明|发现|"
    "出版|运营|经营|撰写|训练|维护|赞助|主持|领导|建立|修建|主办|承办|命名|改编"
)


def _chinese(sentence: str) -> Iterator[Draft]:
    text = re.sub(r"（[^（）]{0,80}）|\([^()]{0,80}\)", "", sentence).strip(" 。！!.")
    if re.search(r"[。！？!?]", text):
        return
    for template in _CHINESE:
        yield from template(text)


def _zh_subject(raw: str) -> str | None:
    """A noun phrase to ask about; None for what needs the text around it, or is none."""
    subject = re.split(r"位于|坐落|全长|属于|简称|又名|又称|原名|本名|成立于", raw.strip())[0]
    quoted = re.fullmatch(r"[《「“][^《》「」“”]{1,30}[》」”]", subject)
    if not quoted and (not 2 <= len(subject) <= 24 or _NO_SUBJECT.search(re.sub(r"《[^《》]*》", "", subject) or "的")):
        return None
    return subject


def _zh_answer(raw: str, *, most: int = 45) -> str | None:
    answer = re.sub("^个", "", raw.strip(" ，、；"))
    if (
        not 2 <= len(answer) <= most
        or re.match(r"[的了着地得之和与或以在并而但且也按靠]|适合|只是|特别是|无论", answer)
        or answer.count("《") != answer.count("》")
    ):
        return None
    return (
        None
        if answer.count("“") != answer.count("”")
        or re.search(r"[后时]$|如下|以下|上述|下面|^[这那它他她其该此]", answer)
        else answer
    )


def _zh_definition(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?P<subject>[^，；：]{{2,24}}?)(?<![但可于总只还不而或正若像算凡要更仍])[就即便乃则亦均]?是(?![否不因由在对以从指为非很位目要])(?P<rest>[^，；：]+){_CLAUSE_END}",
        text,
    )
    if found is None:  # "张三，字某，是..."
        found = re.match(
            rf"(?P<subject>[^，；：]{{2,16}})，(?:[^，；：是]{{2,20}}，){{0,2}}是(?![否不因由在对以从指为非很位目要])(?P<rest>[^，；：]+){_CLAUSE_END}",
            text,
        )
    if found and (subject := _zh_subject(found["subject"])) and (answer := _zh_answer(found["rest"])):
        if len(answer) < 4 or re.search(rf"(?:[的了中里内间]|制造|拍摄|{_ZH_MAKERS})$|^第\d", answer):
            return
        person = bool(_PERSON_ZH.search(answer)) and not re.search(r"《|“", subject)
        yield Draft("definition", f"{subject}是{'谁' if person else '什么'}", answer, subject)


def _zh_date(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?P<subject>[^，；：]{{2,24}}?)(?P<at>于|在)(?P<date>{_YEAR_DATE})(?![后代以之至]|前(?!往))(?P<rest>[^，；：\d]{{2,40}})(?<![时前后]){_CLAUSE_END}",
        text,
    )
    if found and (subject := _zh_subject(found["subject"])):
        yield Draft(
            "date",
            f"{subject}是在{_which(found['date'])}{found['rest'].lstrip('间时').replace('了', '', 1)}的".replace(
                "的的", "的"
            ),
            found["date"],
            subject,
        )
        return
    found = re.match(
        rf"(?P<subject>[^，；：]{{2,24}}?)(?P<verb>成立|创立|创建|创办|建立|建成|始建|出生|诞生|落成|通车|启用|开业|发行|毕业|竣工|逝世)于(?P<date>{_YEAR_DATE}){_CLAUSE_END}",
        text,
    )
    if found and (subject := _zh_subject(found["subject"])):
        yield Draft("date", f"{subject}{found['verb']}于{_which(found['date'])}", found["date"], subject)
        return
    found = re.match(
        rf"(?:在|于)?(?P<date>{_YEAR_DATE})，(?P<rest>[^，；：\d]{{8,40}})(?<![时前后]){_CLAUSE_END}", text
    )
    if found and not re.match(r"[他她它其这那该此并也又被由为在因而与]|.*(?:说|表示|称|指出|认为)$", found["rest"]):
        yield Draft("date", f"{_which(found['date'])}，{found['rest']}", found["date"], "")


def _which(date: str) -> str:
    return "哪一年" if date.rstrip().endswith("年") else "什么时候"


def _zh_number(text: str) -> Iterator[Draft]:
    found = re.match(
        r"(?P<before>[^，；：\d]{4,36}?)(?:约|大约|超过|近|多达|达到)?(?P<count>\d[\d,.]*(?:[万亿千百]+)?)(?:多|余)?"
        rf"(?P<unit>[个名位座张条部首集种间所家层人次公里米吨亩平项枚架艘辆支颗栋卷章台届户口只块版][^，；：\d]{{0,24}}?){_CLAUSE_END}",
        text,
    )
    if (
        not found
        or re.match(r"[年月日时分秒]", found["unit"])
        or found["before"].endswith(("第", "约", "(", "（", "-", "~", "只有", "仅有"))
    ):
        return
    subject = re.match(
        r"[^，]{2,20}?(?=共?有|拥有|包含|包括|约?长|高|占地|面积|设|收录|总|共|提供|支持|含|人口|分)", found["before"]
    )
    if subject and _zh_subject(subject[0]):
        yield Draft("number", f"{found['before']}多少{found['unit']}", found["count"], subject[0])


def _zh_place(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?P<subject>[^；：]{{2,24}}?)，?(?P<verb>位于|坐落于|坐落在|地处)(?P<rest>[^，；：]{{2,30}}){_CLAUSE_END}",
        text,
    )
    if found and (subject := _zh_subject(found["subject"])) and (answer := _zh_answer(found["rest"])):
        yield Draft("place", f"{subject}位于哪里", answer, subject)


def _zh_name(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?P<subject>[^；：]{{2,20}}?)，?(?P<verb>又称为?|也称为?|简称为?|又名|别名|本名|原名为?|俗称|全称为?|被称为|被称作|被誉为|亦称|称为)(?P<rest>[^，；：]{{2,24}}){_CLAUSE_END}",
        text,
    )
    if found and (subject := _zh_subject(found["subject"])) and (answer := _zh_answer(found["rest"])):
        yield Draft(
            "name",
            f"{subject}的{found['verb'].rstrip('为')}是什么"
            if found["verb"][:2] in ("简称", "别名", "本名", "原名", "俗称", "全称")
            else f"{subject}{found['verb']}什么",
            answer.strip("“”「」"),
            subject,
        )


def _zh_agent(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?P<subject>[^，；：]{{2,24}}?)是?由(?P<agent>[^，；：由]{{2,24}}?)(?:所|共同|联合|负责|独立|亲自)?(?P<verb>{_ZH_MAKERS})(?P<rest>(?:和|及|并|与)?(?:{_ZH_MAKERS})?的?)(?P<more>[^，；：]*){_CLAUSE_END}",
        text,
    )
    if (
        found
        and (subject := _zh_subject(found["subject"]))
        and (answer := _zh_answer(found["agent"], most=24))
        and not re.search(r"[在于]|年", answer)
    ):
        yield Draft("agent", f"{subject}由谁{found['verb']}", answer, subject)
    found = re.match(
        rf"(?P<subject>[^，；：]{{2,24}}?)由(?P<parts>[^；：由]{{4,60}}?)(?P<verb>组成|构成){_CLAUSE_END}", text
    )
    if found and (subject := _zh_subject(found["subject"])) and (answer := _zh_answer(found["parts"], most=60)):
        yield Draft("object", f"{subject}由什么{found['verb']}", answer, subject)


def _zh_purpose(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?P<subject>[^，；：]{{2,24}}?)(?:主要|常|通常|一般|可以?|被|专门|旨在)*(?<![适应运作使])(?:用于|用来|用以)(?P<rest>[^，；：]{{3,45}}){_CLAUSE_END}",
        text,
    )
    if found and (subject := _zh_subject(found["subject"])) and (answer := _zh_answer(found["rest"])):
        yield Draft("purpose", f"{subject}用来做什么", answer, subject)


def _zh_object(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?P<subject>[^，；：]{{2,24}}?)(?P<adverb>主要|通常|一般|还|只|仅|目前|同时)?(?P<verb>{_ZH_OBJECT_VERBS})(?P<particle>了)?(?P<rest>[^，；：]{{3,45}}){_CLAUSE_END}",
        text,
    )
    if not found or found["rest"][0].isdigit():  # "基于2005年加入": no object
        return
    if (subject := _zh_subject(found["subject"])) and (answer := _zh_answer(found["rest"])):
        yield Draft("object", f"{subject}{found['verb']}{found['particle'] or ''}什么", answer, subject)


def _zh_condition(text: str) -> Iterator[Draft]:
    found = re.match(
        r"(?P<word>如果|若|当)(?P<condition>[^，；：]{6,45}?)(?P<end>时候?|的话|之?后)?，(?:那么|则|就)?(?P<rest>[^；：]{5,90})$",
        text,
    )
    if not found or re.search(r"[他她它其]|这|那|此|该|我们|因此", found["condition"]):
        return
    if found["word"] == "当" and not found["end"]:
        return
    answer = _zh_answer(found["rest"], most=90)
    if answer is None:
        return
    condition = f"{found['word']}{found['condition'].rstrip()}{found['end'] or ''}"
    wanted = re.match(r"(?:你|您)?(?:想要?|希望|要)(?=[\u4e00-\u9fff])(.{4,})", found["condition"])
    advice = re.match(r"(?:请|[你您]?可以|[你您]?应该|[你您]?需要|使用|建议|推荐|务必|不妨|欢迎)", answer)
    if advice and wanted:
        yield Draft("how", f"如何{wanted[1]}", answer, condition)
    elif advice:
        yield Draft("how", f"{condition}，应该怎么做", answer, condition)
    else:
        yield Draft("condition", f"{condition}，会怎么样", answer, condition)


def _zh_how(text: str) -> Iterator[Draft]:
    found = re.match(
        r"(?:要想?|为了|若要|如需|想要)(?P<goal>[^，；：]{5,40})，(?P<rest>(?:请|你可以|您可以|可以|你应该|你需要|您需要|需要|应该|只需|使用|必须|您?首先)[^；：]{4,80})$",
        text,
    )
    if found and (answer := _zh_answer(found["rest"], most=80)):
        yield Draft("how", f"如何{found['goal']}", answer, found["goal"])


def _zh_why(text: str) -> Iterator[Draft]:
    found = re.match(
        rf"(?:由于|因为)(?P<why>[^；：]{{4,60}}?)，(?:因此|所以|故|因而|故此)?(?P<what>[^，；：]{{6,40}}){_CLAUSE_END}",
        text,
    )
    if (
        found
        and (answer := _zh_answer(found["why"], most=60))
        and not re.match("特别|尤其|通常|又|也|还|.*(?:又不|于是)", found["what"])
        and re.search(r"[A-Za-z《]|[^，]{2,}(?:被|会|不|是|在|将|都|需|可|能|遭|改)", found["what"])
    ):
        subject = re.match(r"[^，]{2,12}?(?=被|会|不|是|在|将|都|需|可|能|遭|改)", found["what"])
        if subject and _zh_subject(subject[0]):
            yield Draft("reason", f"为什么{found['what']}", answer, subject[0])


_WRITTEN_TRADITIONAL = str.maketrans("么谁里时为应该会样关于间称简缩汉发", "麼誰裡時為應該會樣關於間稱簡縮漢發")
_TRADITIONAL_SHARE = 0.1  # of characters with a simplified form, from which on a text is traditional


def _traditional(sentence: str, simplified: str) -> Iterator[Draft]:
    """The drafts of a sentence in simplified characters, in the characters it was written in. One stands for one."""
    changed = {ord(new): old for old, new in zip(sentence, simplified, strict=True) if old != new}
    mostly = sum(map(str.__ne__, sentence, simplified)) >= _TRADITIONAL_SHARE * len(sentence)
    back: dict[int, int | str] = {**(_WRITTEN_TRADITIONAL if mostly else {}), **changed}
    for one in _chinese(simplified):
        at = simplified.find(one.answer)
        answer = sentence[at : at + len(one.answer)] if at >= 0 else one.answer
        yield Draft(one.kind, one.question.translate(back), answer, one.about.translate(back))


_CHINESE: tuple[_Template, ...] = (
    _zh_date, _zh_number, _zh_place, _zh_name, _zh_agent, _zh_purpose, _zh_condition, _zh_how, _zh_why, _zh_definition,
    _zh_object,
)  # fmt: skip
