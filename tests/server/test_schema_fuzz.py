"""Hostile requests to a real server: what its own schema allows and forbids, and what no schema describes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, negative_data_rejection, status_code_conformance
from serving import FERRY_QUESTION, TOKEN

from app.config import Config
from app.pipeline import Pipeline
from app.server.access import Gate
from app.server.app import make_application
from app.server.counters import Counters
from app.server.guard import MAX_BODY_BYTES, Guard
from app.server.heads import HEAD_BYTES, bounded_protocol

EXAMPLES = 12
"""Of each operation, and as many that its schema forbids."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, negative_data_rejection]

# Each run that is not in CI tries other examples; the profile of the test suite sees to that.
fuzzing = settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def _labels() -> list[str]:
    nowhere = Config(Path("nowhere"), Path("nowhere"), device="cpu")
    application = make_application(nowhere, token=TOKEN, open_pipeline=Pipeline)
    schema = schemathesis.openapi.from_dict(application.api.openapi())
    return [found.ok().label for found in schema.get_all_operations()]


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        one.headers["Authorization"] = f"Bearer {TOKEN}"
        yield one


@pytest.fixture(scope="module")
def schema(served):
    return schemathesis.openapi.from_dict(served.application.api.openapi())


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=str)
@pytest.mark.parametrize("label", _labels())
def test_every_operation_answers_as_its_schema_says(served, schema, session, label, mode):
    operation = schema.find_operation_by_label(label)
    if mode.is_negative and not (operation.body or operation.query):
        pytest.skip("there is nothing in it that a schema could forbid")

    @fuzzing
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        answer = case.call(base_url=served.url, session=session, timeout=30)
        case.validate_response(answer, checks=CHECKS)

    ask()
    assert served.bare.get("/healthz").status_code == 200


# ---- what no schema describes ----------------------------------------------------------------------------------------

DEEP = 100_000
JSON_BODIES = {
    "deep lists": b'{"question":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"question":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep and open": b"[" * DEEP,
    "lone surrogate": b'{"question": "\\ud800 where does the ferry leave from"}',
    "lone surrogate as a name": b'{"question": "ferry", "\\udfff": 1}',
    "not UTF-8": b'{"question": "\xff\xfe"}',
    "UTF-16": '{"question": "渡船"}'.encode("utf-16"),
    "NUL": b'{"question": "\\u0000 ferry \\u0000"}',
    "raw NUL": b'{"question": "\x00"}',
    "huge integer": b'{"question": "ferry", "top_k": ' + b"9" * 5000 + b"}",
    "huge float": b'{"question": "ferry", "top_k": 1e999999}',
    "not a number": b'{"question": "ferry", "top_k": NaN}',
    "infinity": b'{"question": "ferry", "top_k": -Infinity}',
    "duplicate keys": b'{"question": "ferry", "question": ["x"], "top_k": 1, "top_k": 2}',
    "no object": b'"ferry"',
    "nothing": b"",
    "white space": b" \t\r\n " * 1000,
    "many keys": b"{" + b",".join(b'"k%d": 1' % n for n in range(20_000)) + b"}",
    "long question": json.dumps({"question": "渡" * 8_001}).encode(),
    "one long word": json.dumps({"question": "x" * 8_000}).encode(),
    "marks only": json.dumps({"question": "?" * 8_000}).encode(),
    "combining marks": json.dumps({"question": "e" + "\u0301" * 7_000}).encode(),
    "reading direction": json.dumps({"question": "\u202e ferry \u2066"}).encode(),
    "patterns": json.dumps({"question": "ferry", "filter": {"source": ["**/" * 300 + "*"] * 50}}).encode(),
    "conditions": json.dumps({"question": "ferry", "filter": {"where": ["a~" + "(a+)+$" * 100] * 50}}).encode(),
}
PATHS = ("/api/ask", "/api/search", "/v1/chat/completions", "/v1/embeddings", "/api/map/question", "/mcp")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", JSON_BODIES)
def test_hostile_json_is_answered(served, name, path):
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    answer = served.client.post(path, content=JSON_BODIES[name], headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and path != "/mcp":
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
        assert len(answer.content) < 4_000, "a problem does not repeat what was sent"


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/xml", "multipart/form-data; boundary=x", "multipart/form-data",
     "application/json; q=\xff", "application/x-www-form-urlencoded", "*/*", "", "application/json" * 500],
    ids=lambda kind: kind[:30].encode("ascii", "replace").decode(),
)  # fmt: skip
@pytest.mark.parametrize("path", [*PATHS, "/signin", "/api/documents"])
def test_a_wrong_content_type_is_answered(served, path, kind):
    body = json.dumps({"question": FERRY_QUESTION}).encode()
    answer = served.client.post(path, content=body, headers={b"Content-Type": kind.encode("latin-1")})
    assert answer.status_code < 500


TRAVERSALS = (
    "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "..%5c..%5cwindows%5cwin.ini", "%00", "a%00.html", "%ff",
    "%c0%ae%c0%ae%c0%af", "....//....//etc/passwd", "%252e%252e%252f", "%2fetc%2fpasswd", "C:%5c", "~root", "*",
    "a" * 8_000, "%ed%a0%80", "..", ".", "%20", "%0d%0aX-Injected:%201", "index.html%2f..%2f..%2faccess.py",
)  # fmt: skip


def test_no_path_parameter_leads_out_of_its_folder(served):
    """Every parameter of every path, with the paths of the page's own files."""
    paths = [*served.application.api.openapi()["paths"], "/page/{name}"]
    templates = [path for path in paths if "{" in path]
    assert "/page/{name}" in templates
    for template in templates:
        before, _, rest = template.partition("{")
        after = rest.partition("}")[2]
        for hostile in TRAVERSALS:
            for method in (b"GET", b"DELETE"):
                answer = _spoken(served, method + f" {before}{hostile}{after} HTTP/1.1".encode() + _HEAD)
                status = int(answer.split(b" ", 2)[1])
                assert status < 500, (template, hostile)
                assert status in range(400, 500) or b"root:" not in answer
                assert b"root:x:" not in answer
                assert b"x-injected" not in answer.lower().partition(b"\r\n\r\n")[0]


# ---- below the schema: what is not even a request --------------------------------------------------------------------

_HEAD = f"\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n".encode()


def _spoken(served, data: bytes, *, more: Iterable[bytes] = ()) -> bytes:
    """What comes back for some bytes on a connection of their own, until the server closes it."""
    url = served.client.base_url
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        try:
            connection.sendall(data)
            for piece in more:
                connection.sendall(piece)
        except OSError:  # the server has heard enough
            pass
        found = b""
        try:
            while piece := connection.recv(65_536):
                found += piece
        except ConnectionResetError:
            pass
    return found


def _posted(path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", "Content-Type: application/json"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_body_longer_than_said_is_no_second_request(served):
    body = json.dumps({"question": FERRY_QUESTION}).encode()
    smuggled = b"GET /api/index HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = _spoken(
        served, _posted("/api/search", f"Content-Length: {len(body)}", "Connection: close") + body + smuggled
    )
    assert _status(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_body_longer_than_allowed_is_refused_at_once(served):
    answer = _spoken(served, _posted("/api/search", f"Content-Length: {MAX_BODY_BYTES + 1}", "Connection: close"))
    assert _status(answer) == 413
    for said in ("-1", "+5", "1e3", "0x10", "9" * 400, "5, 5"):
        answer = _spoken(served, _posted("/api/search", f"Content-Length: {said}", "Connection: close") + b"{}   ")
        assert _status(answer) in {400, 413}, said


def test_a_chunked_body_is_counted(served):
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = _spoken(served, _posted("/api/search", "Transfer-Encoding: chunked"), more=[piece] * 40)
    assert _status(answer) == 413
    both = _posted("/api/search", "Transfer-Encoding: chunked", "Content-Length: 3") + b"0\r\n\r\n"
    assert _status(_spoken(served, both)) == 400
    for broken in (b"zz\r\nxx\r\n0\r\n\r\n", b"-1\r\n", b"ffffffffffffffffff\r\nx"):
        sent = _posted("/api/search", "Transfer-Encoding: chunked", "Connection: close") + broken
        assert _status(_spoken(served, sent)) in range(400, 500)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 100_000,
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 4_000_000,
        b"GET /" + b"x" * 4_000_000,
        b"GET /healthz HTTP/1.1\r\n" + b"X" * 4_000_000,
    ],
    ids=["many", "long value", "long path", "long name"],
)
def test_a_head_that_does_not_end_is_cut_off(served, head):
    pieces = [head[at : at + HEAD_BYTES] for at in range(0, len(head), HEAD_BYTES)]
    answer = _spoken(served, b"", more=pieces)
    assert answer == b"" or _status(answer) in {400, 431}
    assert served.bare.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, {400}),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
        (b"GET /healthz\r\n\r\n", {200, 400}),
        (b"GET /healthz HTTP/9.9\r\n\r\n", {400}),
        (b"GET  /healthz  HTTP/1.1\r\nConnection: close\r\n\r\n", {200, 400}),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n\r\n", {400}),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", {400}),
        (b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405}),
        (b"GET http://[::1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400}),
        (b"GET http://evil.example/api/index HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {401}),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 401, 405}),
        (b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {405}),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {400, 401, 404, 405}),
        (b"GET /healthz HTTP/1.0\r\n\r\n", {200}),
        (b"GET //healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {401}),
        (b"GET /healthz/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {401}),
        (b"GET /healthz/../api/index HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {401}),
        (b"GET /healthz%2f..%2fapi%2findex HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {401}),
        (b"GET /api/index;/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {401}),
        (b"GET /api/index HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n", {401}),
        (b"GET /api/index HTTP/1.1\r\nHost: x\r\nCookie: " + b"a=b;" * 4_000 + b"\r\nConnection: close\r\n\r\n", {401}),
    ],
    ids=lambda given: given[:40].decode("ascii", "replace") if isinstance(given, bytes) else "",
)  # fmt: skip
def test_what_is_hardly_http_is_answered_or_cut_off(served, data, expected):
    answer = _spoken(served, data)
    assert _status(answer) in expected, answer[:300]
    assert served.bare.get("/healthz").status_code == 200


def test_requests_sent_ahead_are_answered_in_order(served):
    ahead = b"".join(
        f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()
        for path, more in [
            ("/healthz", ""),
            ("/api/index", ""),
            ("/healthz", ""),
            ("/healthz", "Connection: close\r\n"),
        ]
    )
    answer = _spoken(served, ahead)
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 401, 200, 200]


def test_a_websocket_is_refused(served):
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x" * 24,
    }
    for path, expected in (("/healthz", 200), ("/api/index", 401)):
        assert served.bare.get(path, headers=upgrade).status_code == expected
    assert served.client.get("/api/ask", headers=upgrade).status_code == 405


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
def test_other_methods_do_nothing(served, method):
    for path in ("/", "/healthz", "/api/ask", "/api/search", "/metrics", "/openapi.json", "/mcp", "/page/main.js"):
        answer = served.client.request(method, path)
        assert answer.status_code in {200, 204, 400, 404, 405, 422}
        assert not any(name.startswith("access-control-") for name in answer.headers)


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes_are_answered_or_cut_off(served, data):
    answer = _spoken(served, data + b"\r\n\r\n" + b"GET /healthz HTTP/1.1" + _HEAD)
    assert answer == b"" or _status(answer) < 500


# ---- slow clients ----------------------------------------------------------------------------------------------------


async def _echo(_scope, receive, send):
    size = 0
    while (message := await receive()).get("more_body"):
        size += len(message["body"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


@contextmanager
def _impatient(*, body_seconds: float, head_seconds: float, limit: int | None = None) -> Iterator[tuple[str, int]]:
    """A server that has little patience with slow clients, and the address it listens at. limit: of connections."""
    guard = Guard(
        _echo,
        gate=Gate(TOKEN),
        counters=Counters(),
        cookie="c",
        max_upload_bytes=1,
        uploads=frozenset(),
        body_seconds=body_seconds,
    )
    http = bounded_protocol(head_seconds)
    server = uvicorn.Server(
        uvicorn.Config(guard, log_config=None, lifespan="off", http=http, ws="none", limit_concurrency=limit)
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            server.should_exit = True
            thread.join(30)


def _answer_to_slow(address: tuple[str, int], begin: bytes, piece: bytes) -> bytes:
    """What comes back while pieces are sent slowly without end, until the server closes."""
    with socket.create_connection(address, timeout=0.05) as connection:
        connection.sendall(begin)
        found = b""
        while True:
            try:
                if not (more := connection.recv(65_536)):
                    return found
                found += more
            except TimeoutError:
                try:
                    connection.sendall(piece)
                except OSError:
                    return found
            except ConnectionResetError:
                return found


def test_a_client_that_sends_a_byte_at_a_time_is_cut_off():
    with _impatient(body_seconds=0.5, head_seconds=0.5) as address:
        slow_body = _answer_to_slow(address, _posted("/x", "Content-Length: 100000"), b"x")
        assert _status(slow_body) == 408
        assert b"connection: close" in slow_body.lower()
        slow_chunks = _answer_to_slow(address, _posted("/x", "Transfer-Encoding: chunked"), b"1\r\nx\r\n")
        assert _status(slow_chunks) == 408
        assert _answer_to_slow(address, b"GET / HTTP/1.1\r\n", b"X") == b""
        assert _answer_to_slow(address, b"GET /", b"x") == b""
        silent = socket.create_connection(address, timeout=30)
        with silent:
            assert silent.recv(1) == b""


def test_a_slow_body_that_keeps_coming_is_taken():
    """Slower than the patience for silence as a whole, yet fast enough for its length."""
    with _impatient(body_seconds=0.3, head_seconds=30) as address, socket.create_connection(address) as connection:
        connection.sendall(_posted("/x", "Content-Length: 40000", "Connection: close"))
        pause = threading.Event()
        for _ in range(8):
            connection.sendall(b"x" * 5_000)
            pause.wait(0.1)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert _status(answer) == 200


@pytest.mark.parametrize("stray", [b"\r\n", b"x"], ids=["blank lines", "a body that nobody reads"])
def test_bytes_that_begin_no_request_hold_no_connection_open(stray):
    begin = f"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {100_000 if stray == b'x' else 0}\r\n\r\n".encode()
    with _impatient(body_seconds=30, head_seconds=0.5) as address:
        assert _status(_answer_to_slow(address, begin, stray)) == 401


def test_a_body_that_nobody_reads_is_let_come_and_the_next_request_answered():
    with _impatient(body_seconds=30, head_seconds=30) as address, socket.create_connection(address) as connection:
        connection.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert _status(connection.recv(65_536)) == 401
        connection.sendall(b"x" * 100_000 + _posted("/x", "Content-Length: 3", "Connection: close") + b"abc")
        assert b"HTTP/1.1 200 OK" in b"".join(iter(lambda: connection.recv(65_536), b""))


def test_strangers_cannot_take_the_place_of_those_who_are_there():
    with _impatient(body_seconds=30, head_seconds=30, limit=4) as address, ExitStack() as connections:
        first, *_ = [connections.enter_context(socket.create_connection(address, timeout=30)) for _ in range(3)]
        late = connections.enter_context(socket.create_connection(address, timeout=30))
        with suppress(ConnectionResetError):
            assert late.recv(1) == b""
        first.sendall(_posted("/x", "Content-Length: 3", "Connection: close") + b"abc")
        assert _status(b"".join(iter(lambda: first.recv(65_536), b""))) == 200


def test_connections_leave_files_for_the_rest():
    """Whatever the system allows: a process that can open no file takes no connection, and complains without end."""
    script = (
        "import resource as r, sys; soft, hard = map(int, sys.argv[1:]); r.setrlimit(r.RLIMIT_NOFILE, (soft, hard));"
        "from app.cli.serve import room_for_connections; print(room_for_connections(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    for soft, hard, expected in (
        (256, 8192, "2000 4000 8192"),
        (256, 512, "256 512 512"),
        (5000, 8192, "2000 5000 8192"),
    ):
        found = subprocess.run([sys.executable, "-c", script, str(soft), str(hard)], capture_output=True, check=True)
        assert found.stdout.decode().split() == expected.split()
