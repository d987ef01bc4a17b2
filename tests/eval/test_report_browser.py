"""The report in a real browser: nothing leaves, nothing of others runs, and a person can use it, by keyboard too."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest

from eval.records import Candidate, Example, Judged, Lost, Prediction
from eval.report.corpus_map import corpus_map
from eval.report.page import write_report
from reader.records import Citation
from retrieval.records import Hit

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    '<img src="https://example.com/x" onerror=alert(3)>',
    "javascript:alert(4)",
    "{{ constructor.constructor('alert(5)')() }}",
    "line\u2028separator\u2029and \u202edesrever",
    "](http://example.com) <a href='http://example.com'>x</a>",
    "<style>body{display:none}</style>",
)
ROWS = 60


@dataclass
class Seen:
    """What a page did that it should not."""

    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser tests: pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser tests: Chromium is not installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=program, args=["--no-sandbox"])  # tests may run as root
        yield launched
        launched.close()


def example(number):
    said = HOSTILE[number % len(HOSTILE)]
    question = f"法国的首都是哪里？ {said}" if number % 10 == 0 else f"Question {number}? {said}"
    return Example(
        f"q{number}", question, (f"gold {number} {said}",), relevant={f"docs/{said}": 1}, answerable=number % 3 > 0,
        kind=("plain", said)[number % 2],
    )  # fmt: skip


def prediction(asked, number):
    said = HOSTILE[number % len(HOSTILE)]
    text = f"🙂 Before. The answer is {number}. After. {said} " + "filler " * 200
    start = text.index("The answer")
    quote = text[start : text.index(". After") + 1]
    hit = Hit(1, 1.0, f"c{number}", "d", f"docs/{said}", 10, 10 + len(text), text, heading=(said,))
    other = Hit(2, 0.5, f"c{(number + 1) % ROWS}", "d", "docs/b.md", 0, 5, "Other")
    cited = Citation(1, f"c{number}", "d", f"docs/{said}", 10 + start, 10 + start + len(quote), quote, 3, None)
    return Prediction(
        asked.example_id, asked.question, f"It is {number} [1]. {said}", False, evidence=number / ROWS,
        citations=(cited,), hits=(hit, other), candidates=(Candidate(f"c{number}", (f"docs/{said}",), 3, None, 2),),
        read=(f"c{number}",), timings_ms={"search": 1.0 + number, said: 2.0, "total": 9.0 + number},
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    examples = [example(number) for number in range(ROWS)]
    missed = Lost("reader missed it", HOSTILE[0])
    judged = [
        Judged(one, {"answer.correct": float(number % 4 > 0)}, None if number % 4 else missed)
        for number, one in enumerate(examples)
    ]
    scores = {
        "retrieval": {"success@1": {"value": 0.8, "low": 0.7, "high": 0.9, "n": ROWS}, HOSTILE[1]: {"value": 0.5}},
        "curves": {
            "recall_by_k": [[1, 0.6], [5, 0.9]],
            "risk_coverage": [[0.5, 0.1], [1.0, 0.25]],
            "reliability": [[0.2, 0.3, 20], [0.8, 0.7, 40]],
        },
    }
    vectors = np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("report") / "报告 report.html"
    write_report(
        path,
        manifest={"name": HOSTILE[0], "dataset": {"name": HOSTILE[1]}, "config": {HOSTILE[2]: HOSTILE[5]}},
        scores=scores,
        judged=judged,
        predictions={one.example_id: prediction(one, number) for number, one in enumerate(examples)},
        map=corpus_map(
            vectors,
            [f"c{number}" for number in range(ROWS)],
            sources=[f"docs/{HOSTILE[number % 8]}" for number in range(ROWS)],
            titles=[HOSTILE[number % 8] for number in range(ROWS)],
            seed=0,
        ),
    )
    return path


@pytest.fixture
def opened(browser, report):
    """Opens the report; whatever the test does with it, nothing may leave or run."""
    contexts, seen = [], Seen()

    def open_page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: seen.messages.append(message.text))
        page.on("pageerror", lambda error: seen.messages.append(str(error)))
        page.goto(report.as_uri())
        page.wait_for_selector("#list .row")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert seen == Seen(requests=[report.as_uri()] * len(contexts))


def test_hostile_texts_are_texts(opened):
    page = opened()
    assert page.inner_text("h1") == HOSTILE[0]
    for row in page.query_selector_all(".row")[:8]:
        row.click()
        for link in page.query_selector_all("#list a, #list img, #list script, #list style, #list iframe"):
            pytest.fail(f"an element of others: {link.evaluate('node => node.outerHTML')}")
    said = page.inner_text("#list")
    for text in HOSTILE[:5]:
        assert text in said
    assert "[U+202E]desrever" in said
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    assert page.query_selector_all("[style]") == []


def test_the_policy_would_stop_what_got_in_all_the_same(browser, report):
    context = browser.new_context()
    page = context.new_page()
    ran, left = [], []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: left.append(request))  # noqa: PLW0108 - it sets attributes of what it is given
    page.goto(report.as_uri())
    page.evaluate("""() => {
        document.body.insertAdjacentHTML("beforeend", "<img src='https://example.com/x' onerror='alert(1)'>");
        const script = document.createElement("script");
        script.textContent = "alert(2)";
        document.body.append(script);
        return fetch("https://example.com/").catch(() => null);
    }""")
    page.wait_for_timeout(50)
    tried = [(request.url, request.failure) for request in left[1:]]  # the browser tells of what it stops, too
    context.close()
    assert ran == []
    assert tried == [("https://example.com/x", "csp")]


def test_search_filters_and_pages_show_what_they_say(opened):
    page = opened()
    count = lambda: page.inner_text("#count")  # noqa: E731 - a look, several times
    assert count() == "60 questions"
    assert len(page.query_selector_all("#list .row")) == 25
    page.click("#after")
    page.click("#after")
    assert page.inner_text("#where") == "Page 3 of 3"
    assert len(page.query_selector_all("#list .row")) == 10
    assert page.is_disabled("#after")
    page.fill("#words", "首都")
    assert count() == "6 of 60 questions"
    page.fill("#words", "ＧＯＬＤ 17")  # full width, and upper case
    assert count() == "1 of 60 questions"
    page.fill("#words", "nothing has this")
    assert count() == "0 of 60 questions"
    page.fill("#words", "")
    page.select_option("#outcome", "lost")
    assert count() == "15 of 60 questions"
    page.select_option("#outcome", "right")
    assert count() == "45 of 60 questions"
    page.select_option("#kind", index=1)
    assert count() == "15 of 60 questions"  # of the 30 even ones, every other is lost
    page.click("button[data-stage='reader missed it']")
    assert (page.input_value("#outcome"), count()) == ("stage-6", "15 of 60 questions")


def test_details_show_the_quote_in_its_passage_and_the_trace(opened):
    page = opened()
    row = page.query_selector_all(".row")[1]
    assert row.get_attribute("aria-expanded") == "false"
    row.focus()
    page.keyboard.press("Enter")
    assert row.get_attribute("aria-expanded") == "true"
    detail = page.query_selector(f"#{row.get_attribute('aria-controls')}")
    assert detail.query_selector("mark.cited").inner_text() == "The answer is 1."
    assert detail.query_selector(".marker").inner_text().strip() == "[1]"
    assert re.search(r"… [\d,]+ characters left out …", detail.inner_text())
    cells = [cell.inner_text() for cell in detail.query_selector_all("tbody td")]
    assert cells == ["3", "–", "2", "1", "yes"]
    page.keyboard.press("Space")
    assert not detail.is_visible()


def test_everything_can_be_reached_by_keyboard_and_has_a_name(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"words", "outcome", "kind", "row", "after", "pick", "plane", "closer", "link"} <= reached
    nameless = page.evaluate("""() => {
        const named = (node) => node.getAttribute("aria-label") || node.getAttribute("aria-labelledby")
            || (node.labels && [...node.labels].some((label) => label.textContent.trim()))
            || (node.tagName === "BUTTON" && node.textContent.trim());
        const nodes = document.querySelectorAll("button, input, select, canvas, section, svg[role=img]");
        return [...nodes].filter((node) => !named(node)).map((node) => node.outerHTML);
    }""")
    assert nameless == []
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((node) => Number(node.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_the_map_shows_a_question_and_its_hits_by_keyboard(opened):
    page = opened()
    page.query_selector_all(".row")[1].click()
    page.click("text=Show on the map")
    assert page.evaluate("document.activeElement.id") == "plane"
    assert page.eval_on_selector("#pick", "node => node.selectedOptions[0].textContent").startswith("Question 1?")
    assert len(page.query_selector_all("#found li")) == 2
    page.wait_for_timeout(50)
    before = page.eval_on_selector("#plane", "node => node.toDataURL()")
    page.keyboard.press("n")
    assert page.inner_text("#spot") == f"docs/{HOSTILE[1]}: {HOSTILE[1]}"
    for key in ("+", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    page.wait_for_timeout(50)
    moved = page.eval_on_selector("#plane", "node => node.toDataURL()")
    page.keyboard.press("0")
    page.wait_for_timeout(50)
    assert moved != before
    assert page.eval_on_selector("#plane", "node => node.toDataURL()") == before
    page.select_option("#pick", "")
    assert page.query_selector_all("#found li") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_have_contrast_enough(opened, scheme):
    """WCAG 2: relative luminance; 4.5 for texts, 3 for what is drawn."""
    page = opened(color_scheme=scheme)
    names = ["paper", "raised", "wash", "ink", "muted", "one", "two", "one-wash", "two-wash", "gold-wash", "focus"]
    colours = page.evaluate(
        """(names) => names.map((name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`))""",
        names,
    )
    light = {name: _luminance(colour.strip()) for name, colour in zip(names, colours, strict=True)}
    assert (light["paper"] > 0.5) == (scheme == "light")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", background)[0]) > 128) == (scheme == "light")
    for text, ground in [(text, ground) for text in ("ink", "muted", "one", "two") for ground in ("paper", "raised")]:
        assert _contrast(light[text], light[ground]) >= 4.5, (text, ground)
    for ground in ("wash", "one-wash", "two-wash", "gold-wash"):
        assert _contrast(light["ink"], light[ground]) >= 4.5, ground
    assert _contrast(light["focus"], light["paper"]) >= 3


def _luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(first, second):
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def test_on_a_phone_nothing_is_wider_than_the_screen(opened):
    page = opened(viewport={"width": 360, "height": 740})
    for row in page.query_selector_all(".row")[:8]:
        row.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    small = page.evaluate("""() => {
        const nodes = document.querySelectorAll("main input, main select, .row, .pages button, .zoom button");
        const height = (node) => node.getBoundingClientRect().height;
        return [...nodes].filter((node) => node.offsetParent && height(node) < 40).map((node) => node.outerHTML);
    }""")
    assert small == []


def test_without_scripts_the_numbers_are_there(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    said = page.inner_text("main")
    context.close()
    assert "80.0" in said
    assert "The list of questions needs the script of this page to run." in said
