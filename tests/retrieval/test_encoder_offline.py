"""Nothing leaves this machine: every step runs in a Python that notes and refuses each look at the internet.

Refusing alone would prove little, for libraries swallow such errors; so every attempt is written down as well. The
guard is an audit hook in a sitecustomize.py, which child processes load too. `CI` is not set: OpenVINO keeps quiet
where it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

GUARD = """
import os, socket, sys

INTERNET = {int(socket.AF_INET), int(socket.AF_INET6)}
NAMES = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}

def refuse(event, arguments):
    if event in NAMES or (event == "socket.__new__" and int(arguments[1]) in INTERNET):
        file = os.open(os.environ["NOTED_ATTEMPTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{event} {arguments[1:]}\\n".encode())
        os.close(file)
        raise PermissionError(f"{event} is forbidden here")

sys.addaudithook(refuse)
"""


@pytest.fixture
def offline(tmp_path, fresh_python):
    """Runs Python under the guard; returns (what it printed, what it tried)."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    noted = tmp_path / "attempts"

    def run(*arguments: str) -> tuple[str, str]:
        done = fresh_python(*arguments, PYTHONPATH=str(tmp_path / "guard"), NOTED_ATTEMPTS=str(noted))
        return done.stdout, noted.read_text() if noted.exists() else ""

    return run


Offline = Callable[..., tuple[str, str]]


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('192.0.2.1', 80))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.getaddrinfo('example.org', 443)",
        "__import__('urllib.request').request.urlopen('http://example.org')",
        "subprocess.run([sys.executable, '-c', 'import socket; socket.socket()'], check=True)",
    ],
)
def test_the_guard_notices(offline: Offline, code: str):
    swallowed = f"import socket, subprocess, sys\ntry:\n    {code}\nexcept Exception as error:\n    print(error)"
    printed, tried = offline("-c", swallowed)
    assert printed.strip()
    assert tried.startswith("socket.")


def test_the_guard_lets_local_sockets_pass(offline: Offline):
    printed, tried = offline("-c", "import socket; print(len(socket.socketpair()))")
    assert (printed.strip(), tried) == ("2", "")


def test_openvino_would_look_up_its_analytics_host(offline: Offline):
    """What the block in the encoder is for. If this fails, OpenVINO has changed and the block may go."""
    try:
        version("openvino-telemetry")
    except PackageNotFoundError:
        pytest.skip("this OpenVINO was installed without its telemetry package")
    _, tried = offline("-c", "import openvino, time\nopenvino.Core()\ntime.sleep(0.5)")
    assert "getaddrinfo" in tried


def test_a_first_ingest_and_a_question_need_no_network(offline: Offline, tmp_path: Path):
    """With an empty home: converts the model, builds the index, answers."""
    docs = tmp_path / "docs"
    docs.mkdir()
    text = "# Try\r\n\r\nThe else clause is executed when no exception was raised.\r\n\r\nCats sleep all day long.\r\n"
    (docs / "try.md").write_bytes(text.encode())
    (docs / "notes.txt").write_text("战国无双3是由光荣开发的游戏。它在2009年发售。", encoding="utf-8")

    offline("-m", "app", "ingest", str(docs))
    printed, tried = offline("-m", "app", "ask", "When is the else clause of a try statement executed?", "--json")
    assert tried == ""
    answer = json.loads(printed)
    assert not answer["abstained"]
    citation = answer["citations"][0]
    assert "The else clause is executed when no exception was raised." in citation["quote"]
    assert text[citation["start"] : citation["end"]] == citation["quote"]
    assert citation["source"] == "try.md"


def test_the_general_path_needs_no_network(offline: Offline):
    code = (
        "from retrieval.encoder import BUNDLED_NAME, SentenceTransformerEncoder, encoder_spec, model_folder\n"
        "encoder = SentenceTransformerEncoder(model_folder(BUNDLED_NAME), encoder_spec(BUNDLED_NAME))\n"
        "print(encoder.encode_query('the cat').shape)"
    )
    assert offline("-c", code) == ("(384,)\n", "")


def test_a_missing_hub_model_is_not_fetched(offline: Offline, tmp_path: Path):
    code = (
        "from pathlib import Path\nfrom retrieval.encoder import ModelError, load_encoder\n"
        f"try:\n    load_encoder('thenlper/no-such-model', cache=Path({str(tmp_path)!r}))\n"
        "except ModelError as error:\n    print(error)"
    )
    printed, tried = offline("-c", code)
    assert "rag models fetch thenlper/no-such-model" in printed
    assert tried == ""
