"""Questions made without a model: asked only of what a sentence says plainly, and only where one passage answers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.cloze import cloze, plain
from eval.generate import Passage, letters, occurrences
from eval.templates import drafts
from retrieval.analyze import Analyzer

DATA = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data")

ANALYZER = Analyzer()


def make(passages, *, count=50, seed=0):
    return cloze(passages, count=count, seed=seed, analyzer=ANALYZER)


def one(text, **more):
    """The pair of a passage of one sentence, as (kind, question, answer)."""
    found = make([Passage(text, "a.md", 0, **more)]).pairs
    return (found[0].kind, found[0].question, found[0].answer) if found else None


# ---- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "kind", "question", "answer"),
    [
        ("BERT is a language model that reads in both directions.",
         "definition", "What is BERT", "a language model that reads in both directions"),
        ("Ada Lovelace was an English mathematician and writer.",
         "definition", "Who was Ada Lovelace", "an English mathematician and writer"),
        ("the capital of Kenya is the city of Nairobi.",
         "definition", "What is the capital of Kenya", "the city of Nairobi"),
        ("the Theatre Royal in Newcastle was opened on 21 January 1788, to great applause.",
         "date", "When was the Theatre Royal in Newcastle opened", "21 January 1788"),
        ("In 1903, Marie Curie was awarded the Nobel Prize in Physics.",
         "date", "When was Marie Curie awarded the Nobel Prize in Physics", "1903"),
        ("the Mongols created the Imperial Library Directorate in 1273.",
         "date", "When did the Mongols create the Imperial Library Directorate", "1273"),
        ("XLM has ten different checkpoints.", "number", "How many different checkpoints does XLM have", "ten"),
        ("There are 131 seats in the debating chamber.",
         "number", "How many seats are there in the debating chamber", "131"),
        ("RoPE scaling can be used to increase the sequence length of a model.",
         "purpose", "What can RoPE scaling be used for", "increase the sequence length of a model"),
        ("the Republic of Kenya is named after Mount Kenya.",
         "relation", "What is the Republic of Kenya named after", "Mount Kenya"),
        ("Polonia's home venue is located at Konwiktorska Street in Warsaw.",
         "place", "Where is Polonia's home venue located", "Konwiktorska Street in Warsaw"),
        ("SPHINX was developed by Kai-Fu Lee.", "agent", "Who was SPHINX developed by", "Kai-Fu Lee"),
        ("If the slot is already filled, a TypeError exception is raised.",
         "condition", "What happens if the slot is already filled", "a TypeError exception is raised"),
        ("If you want to train on TPU, you can use the Accelerate library.",
         "how", "How can you train on TPU", "you can use the Accelerate library"),
        ("To share a model with others, push the folder to the Hub.", "how", "", ""),
        ("To share a model with others, create a repository on the Hub.",
         "how", "How do you share a model with others", "create a repository on the Hub"),
        ("division by zero raises the ZeroDivisionError exception.",
         "object", "What does division by zero raise", "the ZeroDivisionError exception"),
        ("Python 2 cannot be used because it reached its end of life.",
         "reason", "Why cannot Python 2 be used", "it reached its end of life"),
    ],
)  # fmt: skip
def test_english_templates(sentence, kind, question, answer):
    made = [(draft.kind, draft.question, draft.answer) for draft in drafts(sentence, language="en")]
    assert ((kind, question, answer) in made) == bool(question)


@pytest.mark.parametrize(
    ("sentence", "kind", "question", "answer"),
    [
        ("北海道狼是一种已灭绝的狼。", "definition", "北海道狼是什么", "一种已灭绝的狼"),
        ("瞿希贤是中国著名女作曲家。", "definition", "瞿希贤是谁", "中国著名女作曲家"),
        ("张静美（Zhang），台湾人，是一位著名的漫画家。", "definition", "张静美是谁", "一位著名的漫画家"),
        ("潘均顺于1916年前往俄国从事劳动业。", "date", "潘均顺是在哪一年前往俄国从事劳动业的", "1916年"),
        ("剑桥大学出版社成立于1534年，总部设在英国。", "date", "剑桥大学出版社成立于哪一年", "1534年"),
        ("布什总统于2007年10月20日签署行政命令。", "date", "布什总统是在什么时候签署行政命令的", "2007年10月20日"),
        ("天水围河有3条支流。", "number", "天水围河有多少条支流", "3"),
        ("三峡水电站位于湖北省宜昌市境内。", "place", "三峡水电站位于哪里", "湖北省宜昌市境内"),
        ("节流阀俗称油门。", "name", "节流阀的俗称是什么", "油门"),
        ("许国佐又名许钦翼。", "name", "许国佐又名什么", "许钦翼"),
        ("《抓鬼天狗帮》由木下樱创作。", "agent", "《抓鬼天狗帮》由谁创作", "木下樱"),
        ("十字园蛛的第三对脚用来织蜘蛛网。", "purpose", "十字园蛛的第三对脚用来做什么", "织蜘蛛网"),
        ("如果条目没有任何备注，则 note 的值为 None。",
         "condition", "如果条目没有任何备注，会怎么样", "note 的值为 None"),
        ("如果你想在多个 GPU 上训练，请使用 accelerate 命令。",
         "how", "如何在多个 GPU 上训练", "请使用 accelerate 命令"),
        ("LlamaHub提供了数百个组件、智能体和工具的注册中心。",
         "object", "LlamaHub提供了什么", "数百个组件、智能体和工具的注册中心"),
    ],
)  # fmt: skip
def test_chinese_templates(sentence, kind, question, answer):
    made = [(draft.kind, draft.question, draft.answer) for draft in drafts(sentence, language="zh")]
    assert (kind, question, answer) in made


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("三峽水電站位於湖北省宜昌市境內。", "三峽水電站位於哪裡", "湖北省宜昌市境內"),
        ("劍橋大學出版社成立於1534年，總部設在英國。", "劍橋大學出版社成立於哪一年", "1534年"),
        ("無線電視廣播是一種傳送聲音和圖像的技術。", "無線電視廣播是什麼", "一種傳送聲音和圖像的技術"),
    ],
)
def test_traditional_chinese_is_asked_about_in_its_own_characters(sentence, question, answer):
    assert (question, answer) in [(draft.question, draft.answer) for draft in drafts(sentence, language="zh")]


@given(st.text(), st.sampled_from(["en", "zh"]))
def test_no_text_breaks_a_template(text, language):
    assert all(isinstance(draft.question, str) for draft in drafts(text, language=language))


@pytest.mark.parametrize(
    "sentence",
    [
        "He was a German theologian and priest of the sixteenth century.",
        "This class is a wrapper around the original function.",
        "It was founded in 1887 by a group of merchants from London.",
        "The following table is an overview of all the supported models.",
        "Is BERT a language model that reads text in both directions?",
        "## BERT is a language model that reads text in both directions.",
        "| BERT is a language model | that reads text in both directions. |",
        "- `x = 1` is a = {b: c} [statement] <of> the | language.",
        "For example, BERT is a language model that reads in both directions.",
        "Changed in version 3.10: the parameter was removed from the signature.",
        "他是德国十六世纪著名的神学家，也是一位牧师。",
        "本文是关于机器学习模型部署流程的一篇详细的介绍。",
        "该模型是一个用于自然语言处理任务的大型语言模型。",
        "該模型是一個適合自然語言處理任務的大型語言模型。",
        "然后北海道狼是一种生活在日本的已灭绝的狼，十分罕见。",
    ],
)  # fmt: skip
def test_a_sentence_that_does_not_stand_alone_gives_no_question(sentence):
    assert one(sentence) is None


def test_marks_of_emphasis_code_and_links_are_left_out():
    assert plain(
        "- The **[`Trainer`](./trainer.md#a)** class\n  uses `__init__` and [`~hub.push`], *see*  it [3]."
    ) == ("The Trainer class uses __init__ and hub.push, see it .")


# ---- one sentence ----------------------------------------------------------------------------------------------------


def test_a_question_that_names_nothing_says_what_document_it_is_about():
    assert one("The stadium was opened in 1923 by the mayor of the town.", title="Elm Park") == (
        "date", "Regarding “Elm Park”: when was the stadium opened?", "1923",
    )  # fmt: skip
    assert one("车站位于市中心以北约三公里的工业区内。", title="榆树站") == (
        "place", "关于“榆树站”：车站位于哪里？", "市中心以北约三公里的工业区内",
    )  # fmt: skip
    assert one("Elm Park was opened in 1923 by the mayor of the town.", title="Elm Park") == (
        "date", "When was Elm Park opened?", "1923",
    )  # fmt: skip


def test_a_gap_is_the_last_resort():
    assert one("Somewhere along the old coast road the village of Elmham once had a harbour.") == (
        "cloze", "Complete: Somewhere along the old coast road the village of ____ once had a harbour.", "Elmham",
    )  # fmt: skip
    assert one("站前广场往东步行大约半个小时便可到达 Elmham 港口。") == (
        "cloze", "填空：站前广场往东步行大约半个小时便可到达 ____ 港口。", "Elmham",
    )  # fmt: skip


# ---- a corpus --------------------------------------------------------------------------------------------------------

FACTS = [
    f"{name} was founded in {1800 + n} by the {trade} of the {place} valley."
    for n, (name, trade, place) in enumerate(
        (f"{first}{second}", trade, f"{third}shire")
        for first in ("Elm", "Oak", "Ash")
        for second in ("ham", "ton")
        for trade in ("weavers", "miners")
        for third in ("Dorn", "Lank")
    )
]


def test_a_question_that_another_passage_may_answer_is_not_asked():
    twice = [
        Passage("Elmham was founded in 1801 by the weavers of the Dorn valley.", "a.md", 0),
        Passage("Elmham was founded in 1802 by the miners of the Lank valley.", "b.md", 0),
    ]
    made = make(twice)
    assert not any(pair.kind == "date" for pair in made.pairs)
    assert made.dropped["other passages may answer it as well"] >= 2
    # the very same sentence in two documents: nobody could say which of them is meant
    assert make([twice[0], Passage(twice[0].text, "b.md", 0)]).pairs == ()
    # in two overlapping passages of one document it is the same place
    text = f"{twice[0].text} {FACTS[5]}"
    overlapping = [Passage(text[: len(twice[0].text)], "a.md", 0), Passage(text, "a.md", 0)]
    assert {(pair.start, pair.end) for pair in make(overlapping).pairs} >= {(0, len(twice[0].text))}


def test_a_thing_is_asked_for_where_its_own_document_defines_it():
    passages = [
        Passage("LoRA is a method that trains low-rank matrices.", "lora.md", 0, ("LoRA",), "LoRA"),
        Passage("Many people of the lab use LoRA with their models.", "other.md", 0),
    ]
    assert [pair.question for pair in make(passages).pairs] == ["What is LoRA?"]
    passages.append(Passage("LoRA is a wireless technique of long range.", "radio.md", 0))
    assert not any(pair.question == "What is LoRA?" for pair in make(passages).pairs)


def check(passages, made):
    """What holds for every pair of every corpus."""
    texts = {}
    for passage in passages:
        texts.setdefault(passage.source, []).append(passage)
    for pair in made.pairs:
        homes = [
            home
            for home in texts[pair.source]
            if home.text[pair.start - home.start : pair.end - home.start] == pair.evidence and home.start <= pair.start
        ]
        assert homes, "evidence is cut from the document, at the place that is named"
        assert len(occurrences(pair.evidence, pair.answer)) == 1
        assert letters(pair.answer) not in letters(pair.question)
        assert pair.question.endswith(("?", "？")) or pair.kind == "cloze"
    assert len({letters(pair.question) for pair in made.pairs}) == len(made.pairs)
    assert len({pair.id for pair in made.pairs}) == len(made.pairs)


def test_the_same_seed_makes_the_same_pairs_and_another_draws_others():
    passages = [Passage(text, f"{n % 8}.md", 1000 * (n // 8)) for n, text in enumerate(FACTS)]
    made = make(passages, count=6, seed=1)
    assert made == make(passages, count=6, seed=1)
    assert made.pairs != make(passages, count=6, seed=2).pairs
    assert len({pair.source for pair in made.pairs}) == 6
    check(passages, made)


def test_no_more_than_asked_for_and_nothing_of_nothing():
    passages = [Passage(text, f"{n}.md", 0) for n, text in enumerate(FACTS)]
    assert len(make(passages, count=3).pairs) == 3
    assert make(passages, count=0).pairs == ()
    assert make([]).pairs == ()
    assert make([Passage("", "a.md", 0)]).pairs == ()


@given(st.lists(st.text(), max_size=5), st.integers())
def test_any_passages_give_sound_pairs(texts, seed):
    passages = [Passage(text, f"{n}.md", n) for n, text in enumerate(texts)]
    check(passages, make(passages, seed=seed))


@pytest.mark.parametrize(
    "text",
    ["_a " * 4000, "[" * 8000, "```\n" * 2000, "<!--" * 2000, "In 1900, " * 900 + ".", "is a " * 1600 + ".",
     "是" * 4000 + "。", "于1900年" * 800 + "。", "if , when , " * 700 + ".", ".)" * 4000, "[a](" * 2000, "*" * 8000,
     "“" * 4000, "1,000 " * 1300, "`" * 8000, "a. " * 2500],
)  # fmt: skip
def test_text_made_to_be_slow_is_done_with(text):
    assert make([Passage(text, "a.md", 0)]).pairs == ()


def pieces(source, text, size=2000):
    return [Passage(text[start : start + size], source, start, (), source) for start in range(0, len(text), size)]


def test_the_python_topics_give_a_test_set():
    passages = [passage for name, text in sorted(topics.items()) for passage in pieces(name, text)]
    made = make(passages, count=40)
    assert len(made.pairs) == 40
    assert sum(pair.kind == "cloze" for pair in made.pairs) <= 10
    check(passages, made)


@pytest.mark.parametrize("name", ["squad1_dev", "cmrc2018_dev"])
def test_encyclopedias_give_a_test_set(name):
    corpus = DATA / "eval" / name / "corpus.jsonl"
    if not corpus.exists():
        pytest.skip(f"no {corpus} (set RAG_TEST_DATA)")
    with corpus.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line, _ in zip(lines, range(600), strict=False)]
    passages = [Passage(record["text"], record["_id"], 0, (), record.get("title", "")) for record in records]
    made = make(passages, count=60)
    assert len(made.pairs) == 60
    assert sum(pair.kind == "cloze" for pair in made.pairs) == 0
    assert len({pair.kind for pair in made.pairs}) >= 5
    check(passages, made)
