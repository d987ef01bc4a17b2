"""Who comes in and who does not: the token's file, cookies, other pages, every route; and what logs and headers say."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import FERRY_QUESTION, TOKEN, Served, events_of

from app.server.access import Gate, find_token, is_loopback, require_token
from app.server.guard import HEADERS, OPEN_PATHS
from reader.backends.scripted import ScriptedBackend
from retrieval.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
CANARY = "xylophonecanary"


# ---- the token -------------------------------------------------------------------------------------------------------


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path):
    file = tmp_path / "data" / "token"
    made, kept = find_token("", file), find_token("", file)
    assert (made.is_new, kept.is_new) == (True, False)
    assert made.value == kept.value
    assert len(made.value) >= 43  # 256 bits
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o077 == 0
    assert [each.name for each in file.parent.iterdir()] == ["token"]
    assert find_token("given-by-the-environment", file).value == "given-by-the-environment"


def test_threads_that_start_together_find_one_token(tmp_path):
    file, barrier = tmp_path / "token", threading.Barrier(24)

    def find(_: int):
        barrier.wait()
        return find_token("", file)

    with ThreadPoolExecutor(24) as many:
        found = list(many.map(find, range(24)))
    assert len({token.value for token in found}) == 1
    assert [token.is_new for token in found].count(True) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["token"]


def test_processes_that_start_together_find_one_token(tmp_path):
    code = "import sys; from pathlib import Path; from app.server.access import find_token\n"
    code += "print('ready', flush=True); sys.stdin.readline(); print(find_token('', Path('token')).value)"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        )
        for _ in range(6)
    ]  # fmt: skip
    for process in started:
        assert process.stdout.readline() == "ready\n"
    found = {process.communicate("\n", timeout=30)[0] for process in started}
    assert len(found) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["token"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o777])
def test_a_token_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "token"
    find_token("", file)
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        find_token("", file)


@pytest.mark.parametrize("content", [b"", b"short", b"\n" * 100, b"with a space in the middle of it", b"\xff" * 40,
                                     "令牌".encode() * 20, b"two-lines-of-a-token\nanother-line-of-it",
                                     b"\x00" * 64], ids=lambda content: ascii(content[:12]))  # fmt: skip
def test_what_is_no_token_is_refused(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="no token"):
        find_token("", file)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_no_token_that_is_known(tmp_path, host):
    assert is_loopback(host)
    require_token(host, "", tmp_path / "token")


EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - to be refused


@pytest.mark.parametrize("host", [*EVERYWHERE, "192.168.1.5", "localhost.evil.example", "127.1", "example.org", "0"])
def test_other_machines_are_let_near_only_a_token_that_is_known(tmp_path, host):
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="no token yet"):
        require_token(host, "", file)
    require_token(host, "given-by-the-environment", file)
    find_token("", file)
    require_token(host, "", file)


@pytest.mark.parametrize("host", EVERYWHERE)
def test_a_server_for_other_machines_without_a_token_does_not_start(tmp_path, host):
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--host", host, "--port", "0"], cwd=tmp_path, env=environ,
        encoding="utf-8", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no token yet" in done.stderr
    assert "http://" not in done.stderr


# ---- cookies ---------------------------------------------------------------------------------------------------------


def test_a_cookie_is_good_for_its_time_and_its_token():
    now = [1_000_000.0]
    gate = Gate(TOKEN, clock=lambda: now[0])
    cookie, seconds = gate.new_cookie()
    assert gate.knows(cookie)
    assert TOKEN not in cookie
    assert not Gate(TOKEN + "x", clock=lambda: now[0]).knows(cookie)
    now[0] += seconds - 1
    assert gate.knows(cookie)
    now[0] += 1
    assert not gate.knows(cookie)


_LIKE_A_COOKIE = st.builds("{}.{}".format, st.integers(0, 10**15), st.text("0123456789abcdef", max_size=70))


@given(st.text() | _LIKE_A_COOKIE)
def test_no_cookie_can_be_made_up(cookie):
    assert not Gate(TOKEN, clock=lambda: 0.0).knows(cookie)


@given(st.data())
def test_no_cookie_can_be_changed(data):
    gate = Gate(TOKEN, clock=lambda: 0.0)
    cookie, _ = gate.new_cookie()
    at = data.draw(st.integers(0, len(cookie) - 1))
    put = data.draw(st.text(max_size=2).filter(lambda put: put != cookie[at]))
    assert not gate.knows(cookie[:at] + put + cookie[at + 1 :])


@given(st.text(max_size=100))
def test_only_the_token_opens(token):
    assert Gate(TOKEN).opens_for(token) == (token == TOKEN)


@pytest.fixture
def browser(served) -> Served:
    """Somebody who signed in on the page, and has the cookie."""
    with httpx.Client(base_url=served.url, timeout=60) as client:
        answer = client.post("/signin", data={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        said = answer.headers["set-cookie"].lower()
        assert "httponly" in said
        assert "samesite=strict" in said
        yield client


def test_a_wrong_token_signs_nobody_in(served):
    for token in ("", "wrong", TOKEN[:-1], "x" * 5_000, "\ud800".encode("utf-8", "surrogatepass")):
        answer = served.bare.post("/signin", data={"token": token})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert 'role="alert"' in answer.text
    assert served.bare.post("/signin", content=b"&" * 900_000).status_code == 401


OWN, OTHER_PORT, OTHER_SITE = "http://{own}", "http://127.0.0.1:1", "https://evil.example"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": OWN}, 200),
        ({"Origin": OWN}, 200),
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "{own}"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "", "Origin": "http://"}, 403),
        ({"Origin": OTHER_SITE}, 403),
        ({"Origin": OTHER_PORT}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": OTHER_SITE}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": OWN}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": OTHER_PORT}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": OWN}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-origin, cross-site"}, 403),
    ],
    ids=str,
)
def test_another_page_cannot_use_the_cookie(served, browser, headers, expected):
    own = served.url.removeprefix("http://")
    given_headers = {name: value.format(own=own) for name, value in headers.items()}
    answer = browser.post("/api/search", json={"question": FERRY_QUESTION}, headers=given_headers)
    assert answer.status_code == expected
    for method in ("PUT", "PATCH", "DELETE"):
        assert (browser.request(method, "/api/index", headers=given_headers).status_code == 403) == (expected == 403)
    assert browser.get("/api/index").status_code == 200


@pytest.mark.parametrize(
    "other", ['x={"a":1}', "a[b]=1", "flag", "=x", "a@=1", "name=Jos\xe9", "a=b c", 'q="open'], ids=ascii
)
def test_the_cookies_of_other_programs_are_no_hindrance(browser, other):
    ((name, value),) = browser.cookies.items()
    for header in (f"{other}; {name}={value}", f"{name}={value}; {other}"):
        with httpx.Client(base_url=browser.base_url) as client:
            assert client.get("/api/index", headers={b"Cookie": header.encode("latin-1")}).status_code == 200


def test_a_wrong_token_is_not_made_good_by_a_cookie(browser):
    assert browser.get("/api/index", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert browser.get("/api/index", headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "=", "rag-8300=", "rag-8300=1.2", "rag-8300=\xff", 'rag-8300="', "a=b; " * 3_000 + "c=d",
     "rag-8300=99999999999." + "0" * 64],
    ids=lambda cookie: ascii(cookie[:20]),
)  # fmt: skip
def test_a_broken_cookie_lets_nobody_in(served, cookie):
    answer = served.bare.get("/api/index", headers={b"Cookie": cookie.encode("latin-1")})
    assert answer.status_code == 401


# ---- every route -----------------------------------------------------------------------------------------------------


def paths_of(served) -> set[str]:
    """Every path that the application knows, parameters filled in."""
    api = served.application.api
    found = {*api.openapi()["paths"], *(route.path for route in api.routes if getattr(route, "path", None))}
    assert {"/", "/healthz", "/metrics", "/openapi.json", "/api/ask", "/page/{name}", "/mcp"} <= found
    return {path.replace("{", "").replace("}", "").replace(":path", "") for path in found}


def test_nothing_answers_without_the_token_but_what_must(served):
    assert frozenset({"/healthz", "/signin"}) == OPEN_PATHS
    for path in paths_of(served) - OPEN_PATHS:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
            for headers in ({}, {"Accept": "text/html"}, {"Authorization": "Bearer wrong"}):
                answer = served.bare.request(method, path, headers=headers)
                assert answer.status_code == 401, (method, path)
                assert "set-cookie" not in answer.headers


def test_every_kind_of_answer_is_guarded_and_no_other_site_may_read_one(served):
    question = {"question": FERRY_QUESTION}
    site = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answers = {
        "page": served.client.get("/", headers=site),
        "script": served.client.get("/page/main.js"),
        "json": served.client.post("/api/ask", json=question, headers=site),
        "events": served.client.post("/api/ask", json={**question, "stream": True}),
        "metrics": served.client.get("/metrics"),
        "schema": served.client.get("/openapi.json"),
        "malformed": served.client.post("/api/ask", content=b"{"),
        "invalid": served.client.post("/api/ask", json={}),
        "missing": served.client.get("/nothing"),
        "method": served.client.get("/api/ask"),
        "preflight": served.client.options("/api/ask", headers=site),
        "too long": served.client.post("/api/ask", content=b"x" * 1_000_001),
        "refused": served.bare.get("/api/index", headers=site),
        "sign in": served.bare.get("/", headers={"Accept": "text/html"}),
        "signed in": served.bare.post("/signin", data={"token": TOKEN}),
        "health": served.bare.get("/healthz", headers=site),
        "tools": served.client.get("/mcp"),
    }
    expected = {
        "page": 200, "script": 200, "json": 200, "events": 200, "malformed": 422, "missing": 404, "method": 405,
        "preflight": 405, "too long": 413, "refused": 401, "sign in": 401, "signed in": 303, "tools": 405,
    }  # fmt: skip
    assert {kind: answers[kind].status_code for kind in expected} == expected
    for kind, answer in answers.items():
        assert not any(name.startswith("access-control-") for name in answer.headers), kind
        for name, value in HEADERS.items():
            (found,) = answer.headers.get_list(name)
            assert name in {"cache-control", "content-security-policy"} or found == value, kind
        assert "default-src 'none'" in answer.headers["content-security-policy"], kind
        assert "unsafe" not in answer.headers["content-security-policy"], kind
        assert answer.headers["cache-control"] in {"no-store", "no-cache"}, kind
        assert len(answer.headers["x-request-id"]) == 16, kind
    assert answers["events"].headers["content-type"].startswith("text/event-stream")
    served.bare.cookies.clear()


# ---- logs ------------------------------------------------------------------------------------------------------------


class Failing(ScriptedBackend):
    """Fails with words that nobody may read in a log."""

    def stream(self, _messages, _sampling):
        yield "some words "
        raise ValueError(f"could not read: {CANARY}")


def test_logs_hold_neither_questions_nor_documents(serve, small_index, caplog):
    caplog.set_level(logging.DEBUG)
    asked = f"Where does the ferry leave from, {CANARY}?"
    with serve(small_index, backend=Failing([])) as served:
        ask = served.client.post
        history = [{"question": CANARY, "answer": CANARY}]
        assert ask("/api/ask", json={"question": asked, "reader": "extractive", "history": history}).status_code == 200
        assert ask("/api/search", json={"question": asked}).status_code == 200
        assert ask("/api/ask", json={"question": FERRY_QUESTION}).status_code == 500
        events = events_of(ask("/api/ask", json={"question": FERRY_QUESTION, "stream": True}))
        assert (events[-1][0], events[-1][1]["error"]["code"]) == ("failed", "internal")
        ask("/api/ask", json={"question": [CANARY], CANARY: 1})
        ask("/api/ask", content=f'{{"question": "{CANARY}'.encode())
        ask("/v1/chat/completions", json={"model": CANARY, "messages": [{"role": "user", "content": CANARY}]})
        ask("/signin", data={"token": CANARY})
        served.client.get(f"/{CANARY}?q={CANARY}", headers={CANARY: CANARY})
        served.client.get(f"/page/{CANARY}")
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": CANARY, "arguments": {}}}
        served.client.post("/mcp", json=call, headers={"Accept": "application/json, text/event-stream"})
        metrics = served.client.get("/metrics").text
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    log = "\n".join(logging.Formatter("%(name)s %(message)s").format(record) for record in ours)
    assert "ValueError" in log  # what went wrong, and where, is there
    assert "in stream" in log
    assert " POST /api/search 200 " in log
    for private in (CANARY, "pier seven", FERRY_QUESTION, TOKEN, "some words"):
        assert private not in log
        assert private not in metrics
