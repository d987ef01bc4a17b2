"""The library, the search, the runs and the map in a real browser: by mouse, by keyboard, whatever names are like."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Pages, launched, violations
from packages import packed
from run_folders import NAME, made_runs
from serving import FERRY_QUESTION, LIBRARY, Serve, Served

from app.server.corpus import draw

HOSTILE = "<img src=x onerror=alert(1)> ']\"$&.md"
HOSTILE_TEXT = "# <script>alert(2)</script>\n\n[A walrus](javascript:alert(3)) sings <b onclick=alert(4)>at noon</b>.\n"
SECONDS = 60_000
PHONE = {"viewport": {"width": 390, "height": 844}, "locale": "zh-CN", "color_scheme": "dark"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as one:
        yield one


@pytest.fixture
def pages(browser) -> Iterator[Pages]:
    some = Pages(browser)
    yield some
    some.close()


@pytest.fixture(scope="module")
def full(serve: Serve, small_index: Path, model_cache: Path, encoder: Any, tmp_path_factory: Any) -> Iterator[Served]:
    """A server over the small library with its runs and its map; tests may add documents and take these away again."""
    index = Path(shutil.copytree(small_index, tmp_path_factory.mktemp("page") / "index"))
    runs = made_runs(tmp_path_factory.getbasetemp(), small_index, model_cache, encoder)
    with serve(index, runs=runs) as one:
        yield one


@pytest.fixture(scope="module")
def still(serve: Serve, full: Served, small_index: Path, tmp_path_factory: Any) -> Iterator[Served]:
    """A server over what no test changes."""
    index = Path(shutil.copytree(small_index, tmp_path_factory.mktemp("still") / "index"))
    with serve(index, runs=full.config.runs) as one:
        draw(index, one.config.cache / "maps")
        yield one


# ---- search ----------------------------------------------------------------------------------------------------------


def test_a_search_shows_passages_and_on_demand_how_each_was_found(pages, still):
    page = pages.open(still, "/#/search")
    page.get_by_role("searchbox").fill(FERRY_QUESTION)
    page.keyboard.press("Enter")
    first = page.locator(".hits > li").first
    first.wait_for()
    assert "ferry.md" in first.locator(".place").inner_text()
    assert {"ferry", "leaves"} <= {each.lower() for each in first.locator("mark").all_inner_texts()}
    first.get_by_text("How it was found").click()
    assert first.locator("tbody tr").count() == 5
    assert first.locator("tbody tr").first.inner_text().split("\t")[1] == "1"
    page.get_by_text("How the question was read").click()
    assert {"ferry", "leave"} <= set(page.locator(".bars").first.locator("bdi").all_inner_texts())
    first.locator(".place").click()
    page.locator("#source mark").wait_for()
    assert "pier seven" in page.locator("#source mark").inner_text()
    page.keyboard.press("Escape")
    assert first.locator(".place").evaluate("node => node === document.activeElement")
    page.reload()
    first.wait_for()  # the address keeps the question


def test_a_search_is_narrowed_down_and_says_by_what(pages, still):
    page = pages.open(still, "/#/search")
    page.get_by_role("searchbox").fill("What does the beekeeper wear?")
    page.get_by_text("Narrow down").click()
    page.get_by_label("Path").fill("clocks.md, 茶馆.md")
    page.keyboard.press("Enter")
    page.locator(".hits > li").first.wait_for()
    assert all(re.match("clocks.md|茶馆.md", each) for each in page.locator(".hits .place").all_inner_texts())
    page.get_by_label("Path").fill("nothing/*.pdf")
    page.keyboard.press("Enter")
    page.get_by_text("nothing/*.pdf").wait_for()
    page.get_by_label("Pages").fill("three")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("three").wait_for()
    page.go_back()
    page.get_by_text("Nothing was found among").wait_for()


# ---- library ---------------------------------------------------------------------------------------------------------


def test_files_are_chosen_read_opened_accounted_for_and_deleted(pages, full, tmp_path):
    (tmp_path / HOSTILE).write_text(HOSTILE_TEXT, encoding="utf-8")
    (tmp_path / "torn.pdf").write_bytes(b"%PDF-1.7 and no more")
    (tmp_path / "both.zip").write_bytes(packed({"one.txt": "The newt counts to one.", "two.txt": "The newt is tired."}))
    page = pages.open(full, "/#/library")
    page.get_by_text(f"{len(LIBRARY)} documents").wait_for()
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Add documents").click()
    choosing.value.set_files([tmp_path / HOSTILE, tmp_path / "torn.pdf", tmp_path / "both.zip"])
    uploads = page.locator(".uploads li")
    page.locator(".uploads li[data-done]").nth(2).wait_for(timeout=SECONDS)
    for name in ("onerror", "both.zip"):
        assert "in the library" in uploads.filter(has_text=name).inner_text()
    torn = uploads.filter(has_text="torn.pdf").inner_text()
    failure = page.locator(".failures li").filter(has_text="torn.pdf")
    failure.wait_for()
    (known,) = full.client.get("/api/documents/failures").json()["failures"]
    for words in (known["reason"], known["advice"]):
        assert words in torn
        assert words in failure.inner_text()

    row = page.locator(".documents li").filter(has_text="onerror")
    row.locator(".name").click()
    page.locator("#source .text").get_by_text("A walrus").wait_for()
    page.keyboard.press("Escape")
    row.get_by_text("Account").click()
    row.locator("dl").wait_for()
    facts = dict(zip(row.locator("dt").all_inner_texts(), row.locator("dd").all_inner_texts(), strict=True))
    assert facts["characters of text"] == str(len(HOSTILE_TEXT))
    assert facts["unaccounted for"] == "0"

    delete = row.get_by_role("button", name="Delete")
    delete.click()
    dialog = page.get_by_role("dialog", name="Delete")
    assert "uploaded file is removed" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert row.count() == 1
    delete.click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_text("Looked for").wait_for(timeout=SECONDS)
    row.wait_for(state="detached")
    failure.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    failure.wait_for(state="detached", timeout=SECONDS)
    members = page.locator(".documents li").filter(has_text="both.zip")
    members.first.get_by_role("button", name="Delete").click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_text("other documents").wait_for()  # the file can only go as a whole
    assert members.count() >= 2
    dialog.get_by_role("button", name="Delete").click()
    members.first.wait_for(state="detached", timeout=SECONDS)
    assert full.client.get("/api/documents").json()["total"] == len(LIBRARY)
    assert not list(full.config.uploads.glob("*.*"))


def test_dropped_files_go_in_and_changes_are_looked_for(pages, full):
    page = pages.open(full, "/#/library")
    page.locator(".documents li").first.wait_for()
    dropped = page.evaluate_handle("""() => {
        const data = new DataTransfer();
        data.items.add(new File(["The walrus sings at noon."], "walrus.txt"));
        data.items.add(new File(["海象在中午唱歌。"], "海象.txt"));
        return data;
    }""")
    page.dispatch_event("main", "dragover", {"dataTransfer": dropped})
    assert page.locator(".veil").is_visible()
    page.dispatch_event("main", "drop", {"dataTransfer": dropped})
    assert page.locator(".veil").is_hidden()
    page.locator(".uploads li[data-done]").nth(1).wait_for(timeout=SECONDS)
    for name in ("walrus.txt", "海象.txt"):
        assert "in the library" in page.locator(".uploads li").filter(has_text=name).inner_text()
    page.get_by_label("Filter").fill("海象")
    page.get_by_text("1 document with “海象”").wait_for()
    assert page.locator(".documents li").count() == 1
    page.get_by_role("button", name="Look for changes").click()
    page.get_by_text("Nothing has changed.").wait_for(timeout=SECONDS)
    for document in full.client.get("/api/documents").json()["documents"]:
        if document["uploaded"]:
            assert full.client.delete(f"/api/documents/{document['doc_id']}").status_code == 200


def test_an_empty_library_says_how_to_fill_it(pages, serve, tmp_path):
    with serve(tmp_path / "index") as empty:
        for view, said in (("library", "no documents yet"), ("runs", "make eval"), ("map", "Add documents")):
            page = pages.open(empty, f"/#/{view}")
            page.get_by_text(said).first.wait_for()
            assert violations(page) == [], view
        page = pages.open(empty, "/#/search?q=anything")
        page.get_by_role("alert").get_by_role("link", name="Add documents").click()
        page.get_by_role("heading", name="Library").wait_for()


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_two_runs_are_chosen_and_compared(pages, still):
    page = pages.open(still, "/#/runs")
    boxes = page.get_by_role("checkbox")
    boxes.first.wait_for()
    assert NAME in page.locator(".runs .name").all_inner_texts()
    page.get_by_label("Compare first").check()
    page.get_by_label("Compare shy").check()
    assert boxes.last.is_disabled() or boxes.first.is_disabled()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("heading", name="first against shy").wait_for()
    page.locator(".flips li").first.wait_for()
    made = still.client.get("/api/runs/compare", params={"a": "first", "b": "shy"}).json()
    assert page.locator(".flips li").count() == len(made["flips"])
    assert "wrongly abstained" in page.locator(".flips li").first.inner_text()
    page.get_by_role("button", name=re.compile("All .* measures")).click()
    rows = page.get_by_role("region", name="Measures").locator("tbody tr")
    assert rows.count() == len(made["differences"])
    page.go_back()
    boxes.first.wait_for()


def test_runs_that_cannot_be_compared_say_why(pages, still):
    page = pages.open(still, "/#/runs?a=first&b=nobody")
    page.get_by_role("alert").wait_for()
    page.get_by_role("link", name="All runs").click()
    page.get_by_label(f"Compare {NAME}").check()
    page.get_by_label("Compare first").check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("alert").get_by_text("datasets that are not the same").wait_for()


def test_a_report_opens_beside_and_has_no_power_here(pages, still):
    page = pages.open(still, "/#/runs")
    with page.context.expect_page() as opening:
        page.get_by_role("link", name=f"Open the report of {NAME}").click()
    report = opening.value
    report.locator("#list button").first.wait_for()  # its own script runs
    assert report.evaluate("self.origin") == "null"
    assert report.evaluate("self.opener") is None
    assert report.evaluate("fetch('/api/index').then(() => 'answered', () => 'refused')") == "refused"
    assert report.evaluate("(() => { try { return document.cookie; } catch { return 'refused'; } })()") == "refused"


# ---- map -------------------------------------------------------------------------------------------------------------


def test_the_map_is_drawn_on_request(pages, full):
    pytest.importorskip("openTSNE", reason="a map needs openTSNE: pip install 'cited-rag[map]'")
    page = pages.open(full, "/#/map")
    page.get_by_role("button", name="Draw the map").click()
    page.locator("canvas").wait_for(timeout=SECONDS)
    assert page.locator(".legend-list button").count() == len(LIBRARY)


def test_passages_are_reached_by_key_and_a_question_shows_its_hits(pages, still):
    page = pages.open(still, "/#/map")
    page.locator("canvas").focus()
    page.keyboard.press("ArrowRight")
    tip = page.locator(".tip")
    tip.wait_for()
    first = tip.inner_text()
    assert any(name in first for name in LIBRARY)
    seen = {first}
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        seen.add(tip.inner_text())
    assert len(seen) > 2
    page.keyboard.press("Enter")
    page.locator("#source mark").wait_for()
    page.keyboard.press("Escape")
    assert page.locator("canvas").evaluate("node => node === document.activeElement")
    page.get_by_role("searchbox").fill(FERRY_QUESTION)
    page.keyboard.press("Enter")
    hit = page.locator(".found li").first
    hit.wait_for()
    assert "ferry.md" in hit.inner_text()
    hit.locator(".place").click()
    page.locator("#source mark").get_by_text("pier seven").wait_for()


# ---- for everybody ---------------------------------------------------------------------------------------------------

STATES = {
    "search": (
        "search?q=Where+does+the+ferry+leave+from%3F",
        ".hits > li",
        ".hits summary, .reading summary, .search-form summary",
    ),
    "runs": ("runs", ".runs li", ""),
    "compared": ("runs?a=first&b=shy", ".verdict", "details > summary"),
    "map": ("map", ".legend-list button", ""),
    "library": ("library", ".documents li", ".documents summary"),
}


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desk", "phone"])
def test_every_view_can_be_used_by_everybody(pages, still, options):
    page = pages.open(still, "/#/search", **options)
    for name, (place, ready, opened) in STATES.items():
        page.goto(f"{still.url}/#/{place}")
        page.locator(ready).first.wait_for()
        for summary in page.locator(opened).all()[:8] if opened else []:
            summary.click()
        page.wait_for_load_state("networkidle")
        if name == "map":
            page.get_by_role("searchbox").fill(FERRY_QUESTION)
            page.keyboard.press("Enter")
            page.locator(".found li").first.wait_for()
        assert violations(page) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the screen"
        words = page.locator("main").inner_text()
        assert not re.search(r"\b(?:library|search|runs|map|part|account|stage)\.[a-z]", words), (
            name
        )  # a key without words
        assert not re.search(r"\{\w+\}", words), name


def test_both_languages_say_the_same():
    folder = Path(__file__).parents[2] / "app/server/static"
    for name in ("parts", "library", "search", "runs", "map"):
        english, chinese = (folder / f"{name}.js").read_text(encoding="utf-8").split("  zh: {")
        keys = [set(re.findall(r'"([a-z]+[.][^"]+)": "', each.split("\n};")[0])) for each in (english, chinese)]
        plural = {key for key in keys[0] if key.endswith(".one")}  # Chinese has none
        stages = {key for key in keys[1] if key.startswith("stage.")}  # in English they are named so already
        assert keys[0] - plural == keys[1] - stages, name
