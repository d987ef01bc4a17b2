"""Debian's Chromium against a real server: the browser, signed-in pages, and what no page of ours may ever do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import pytest
from serving import Served

WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")


@dataclass
class Seen:
    """What a page did that it should not. refused: (status, path) of what the server answered with an error."""

    outside: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)

    @property
    def harm(self) -> tuple[list[str], list[str], list[str]]:
        """What no page may do: ask others, open a dialog, say an error or a warning to the console."""
        return self.outside, self.dialogs, self.messages


@contextmanager
def launched() -> Iterator[Any]:
    """The browser. Skips the test, and says why, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser tests: pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no browser tests: Chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])  # tests may run as root
        yield browser
        browser.close()


class Pages:
    """Signed-in pages of a server, watched: `seen.harm` must be empty when they are closed."""

    def __init__(self, browser: Any) -> None:
        self._browser, self._contexts = browser, []
        self.seen = Seen()

    def open(self, served: Served, path: str = "/", **options: Any) -> Any:
        """A page of a new visitor, who has signed in. options: of Playwright's contexts."""
        context = self._browser.new_context(
            **{"viewport": {"width": 1280, "height": 860}, "locale": "en-GB", **options}
        )
        self._contexts.append(context)
        value, _ = served.application.server.gate.new_cookie()
        cookie = {"name": served.application.server.cookie, "value": value, "url": served.url, "httpOnly": True}
        context.add_cookies([{**cookie, "sameSite": "Strict"}])
        context.set_default_timeout(15_000)
        page = context.new_page()
        self._watch(page, served.url)
        page.goto(f"{served.url}{path}")
        page.wait_for_selector("main h1", state="attached")
        return page

    def close(self) -> None:
        """End all pages."""
        for context in self._contexts:
            context.close()

    def _watch(self, page: Any, url: str) -> None:
        seen = self.seen

        def message(said: Any) -> None:
            # What Chromium says of every status from 400 on stands in `refused`, with the path.
            if said.type in {"error", "warning"} and not said.text.startswith("Failed to load resource: the server"):
                seen.messages.append(said.text)

        def answered(answer: Any) -> None:
            if answer.status >= 400:
                seen.refused.append((answer.status, answer.url.removeprefix(url).partition("?")[0]))

        def asked(request: Any) -> None:
            if not request.url.startswith((f"{url}/", f"blob:{url}/")):
                seen.outside.append(request.url)

        page.on("request", asked)
        page.on("response", answered)
        page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("console", message)
        page.on("pageerror", lambda error: seen.messages.append(str(error)))


def until(page: Any, condition: str, value: object = None) -> None:
    """Wait until a function of `value` is true in the page. Playwright's own way needs `eval`, which is refused."""
    page.evaluate(
        f"""async (value) => {{
            const holds = {condition};
            const last = performance.now() + 15_000;
            while (!holds(value)) {{
                if (performance.now() > last) throw new Error("it does not come true");
                await new Promise((resolve) => setTimeout(resolve, 10));
            }}
        }}""",
        value,
    )


def violations(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds wrong with a page as it is now: (rule, elements)."""
    pytest.importorskip("axe_playwright_python", reason="no tests of accessibility: pip install axe-playwright-python")
    script = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    page.evaluate(script)  # a tag would be refused by the policy of the page
    page.evaluate(
        "() => document.getAnimations().forEach((each) => each.cancel())"
    )  # what fades in has no contrast yet
    found = page.evaluate(
        "(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})", list(WCAG)
    )
    return [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]]
