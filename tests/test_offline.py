"""Nothing leaves this machine: every step runs where the kernel refuses internet sockets and tells of each attempt.

A hook in Python is passed by by native code, an error is swallowed by libraries, and a death goes unnoticed in a child.
So a filter of system calls, which every descendant inherits, asks a process that watches: it notes the attempt and
refuses. UNIX sockets are let through, for event loops and the names of users need them: a look-up of a host that a
service on this machine answers that way is not seen. Nothing that silences telemetry is set, `CI` least of all, for
OpenVINO keeps quiet where it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from docx import Document

from bench.small_models import save_small_model

SEAL = """
import fcntl, os, select, socket, struct, sys, ctypes
from ingest.sandbox import ALLOW, Rule, install

ASK, LISTEN, SUBREAPER = 0x7FC00000, 8, 36
RECEIVE, ANSWER = 0xC0502100, 0xC0182101
FAMILY = 4 * 2 + 16 + 16  # where a notification has the first argument of the call

def note(listener, noted):
    asked = bytearray(80)
    try:
        fcntl.ioctl(listener, RECEIVE, asked)
        number, pid = struct.unpack_from("=QI", asked)
        call, family = struct.unpack_from("=i", asked, 16)[0], struct.unpack_from("=Q", asked, 32)[0]
        noted.write(f"call {call} family {family}\\n")
        fcntl.ioctl(listener, ANSWER, bytearray(struct.pack("=QqiI", number, 0, -1, 0)))
    except FileNotFoundError:
        pass  # it has ended meanwhile

rules = [Rule("socket", ((0, 0xFFFFFFFF, socket.AF_UNIX),)), Rule("socket", then=ASK), Rule("io_uring_setup", then=ASK)]
listener = install(rules, otherwise=ALLOW, flags=LISTEN)
if listener < 0:
    sys.exit("no seccomp filters here")
ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
child = os.fork()
if not child:
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
asking = select.poll()
asking.register(listener, select.POLLIN)
with open(sys.argv[1], "w") as noted:
    while True:  # as long as any descendant lives
        for _ in asking.poll(20):
            note(listener, noted)
        try:
            pid, how = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == child:
            status = os.waitstatus_to_exitcode(how)
sys.exit(status)
"""
ROOT = Path(__file__).resolve().parents[1]
NO_FILTERS = "no seccomp filters here\n"

QUESTION = "When is the else clause of a try statement executed?"
SENTENCE = "The else clause is executed when no exception was raised."
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Count 1/Kids[3 0 R]>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F1 4 0 R>>>>/Contents 5 0 R>>endobj
4 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
5 0 obj<</Length 61>>stream
BT /F1 12 Tf 20 700 Td (The mirror is coated in May.) Tj ET
endstream endobj
trailer<</Size 6/Root 1 0 R>>
"""


@dataclass(frozen=True)
class Machine:
    """Python without internet, in a home of its own, with nothing inherited but PATH."""

    home: Path

    def tried(self, *arguments: str, **environ: str) -> tuple[str, list[str]]:
        """What Python printed, and which sockets were asked for."""
        noted = self.home / "noted"
        done = subprocess.run(
            [sys.executable, "-c", SEAL, str(noted), *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), **environ},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        if done.stderr == NO_FILTERS:
            pytest.skip(NO_FILTERS.strip())
        assert done.returncode == 0, done.stderr
        return done.stdout, noted.read_text().splitlines()

    def __call__(self, *arguments: str, **environ: str) -> str:
        """What Python printed; fails where a socket was asked for."""
        printed, tried = self.tried(*arguments, **environ)
        assert tried == []
        return printed


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Machine:
    """With an empty home: no model was converted yet, and no cache is there."""
    return Machine(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def docs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "try.md").write_bytes(f"# Try\r\n\r\n{SENTENCE}\r\n\r\nCats sleep all day long.\r\n".encode())
    (folder / "notes.txt").write_text("战国无双3是由光荣开发的游戏。它在2009年发售。", encoding="utf-8")
    (folder / "telescope.pdf").write_bytes(PDF)
    document = Document()
    document.add_heading("Honey", 1)
    document.add_paragraph("The beekeeper wears a purple hat.")
    document.save(str(folder / "bees.docx"))
    return folder


@pytest.fixture(scope="module")
def small_model(tmp_path_factory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def indexed(sealed: Machine, docs: Path) -> dict[str, object]:
    """The report of a first ingest: it converts the encoder, parses in workers and writes the index."""
    report = json.loads(sealed("-m", "app", "ingest", str(docs), "--json"))
    assert isinstance(report, dict)
    return report


# ---- the seal --------------------------------------------------------------------------------------------------------

ATTEMPTS = {
    "IPv4": "socket.socket()",
    "IPv6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "raw": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "native": "1 / (ctypes.CDLL(None).socket(2, 1, 0) + 1)",
    "name": "socket.getaddrinfo('example.org', 443)",
    "library": "__import__('httpx').get('http://192.0.2.1')",
    "thread": "thread = threading.Thread(target=socket.socket); thread.start(); thread.join(); 1 / 0",
    "child": "subprocess.run([sys.executable, '-c', 'import socket; socket.socket()'], check=True)",
    "orphan": "subprocess.Popen([sys.executable, '-c', 'import socket, time; time.sleep(1); socket.socket()']); 1 / 0",
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_attempt_is_refused_and_noted(sealed: Machine, attempt: str):
    code = (
        "import ctypes, socket, subprocess, sys, threading\n"
        f"try:\n    {ATTEMPTS[attempt]}\nexcept Exception:\n    print('refused')"
    )
    printed, tried = sealed.tried("-c", code)
    assert printed == "refused\n"
    assert tried


def test_what_event_loops_need_is_left(sealed: Machine):
    assert sealed("-c", "import asyncio; print(asyncio.run(asyncio.sleep(0, 1)))") == "1\n"


def test_openvino_would_look_up_its_analytics_host(sealed: Machine):
    """What the block in the encoder is for. If this fails, OpenVINO has changed and the block may go."""
    try:
        version("openvino-telemetry")
    except PackageNotFoundError:
        pytest.skip("this OpenVINO was installed without its telemetry package")
    _, tried = sealed.tried("-c", "import openvino, time\nopenvino.Core()\ntime.sleep(0.5)")
    assert tried


# ---- the product -----------------------------------------------------------------------------------------------------


def test_a_first_ingest_reads_every_file(indexed):
    assert sorted(indexed["added"]) == ["bees.docx", "notes.txt", "telescope.pdf", "try.md"]
    assert indexed["failures"] == [], "a worker refuses sockets by itself: its file would be here"


def test_an_answer_is_quoted(sealed: Machine, indexed, docs: Path):  # noqa: ARG001
    answer = json.loads(sealed("-m", "app", "ask", QUESTION, "--json"))
    assert not answer["abstained"]
    citation = answer["citations"][0]
    assert SENTENCE in citation["quote"]
    assert (docs / "try.md").read_bytes().decode()[citation["start"] : citation["end"]] == citation["quote"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "二零零九年", "--explain"),
        ("index", "info"),
        ("index", "verify"),
        ("models", "list"),
        ("models", "check", "all-MiniLM-L6-v2"),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_a_command_needs_no_network(sealed: Machine, indexed, arguments: tuple[str, ...]):  # noqa: ARG001
    assert sealed("-m", "app", *arguments)


def test_an_evaluation_needs_no_network(sealed: Machine, indexed, tmp_path: Path):  # noqa: ARG001
    """Questions, plots, a map of the corpus and the report."""
    questions = tmp_path / "questions.csv"
    questions.write_text(
        f"question,answer,source\n{QUESTION},{SENTENCE.split(maxsplit=1)[0]},try.md\n", encoding="utf-8"
    )
    scores = json.loads(sealed("-m", "app", "eval", "run", str(questions), "--out", str(tmp_path / "run"), "--json"))
    assert scores["retrieval"]["success@5"]["value"] == 1.0
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "map.json").is_file()


def test_an_answer_is_written(sealed: Machine, indexed, small_model: Path):  # noqa: ARG001
    """transformers, accelerate and bitsandbytes: four bits a weight, as the real model has."""
    reader = {"RAG_READER": "zephyr", "RAG_MODEL": str(small_model), "RAG_MAX_ANSWER_TOKENS": "8"}
    answer = json.loads(sealed("-m", "app", "ask", QUESTION, "--json", **reader))
    assert answer["written"]["tokens"] == 8


LIBRARIES = """
import asyncio, socket, sys
from pathlib import Path
socket.has_ipv6 = False  # else urllib3, which LangChain brings, binds a socket to ::1 when imported, to see if it can
from langchain_core.language_models import FakeListChatModel
from ingest.langchain import RagTextSplitter
from reader.backends.base import Message, Sampling
from reader.backends.scripted import ScriptedBackend
from reader.langchain import LangChainBackend, RagChatModel
from retrieval.encoder import BUNDLED_NAME, SentenceTransformerEncoder, encoder_spec, load_encoder, model_folder
from retrieval.errors import ModelError
from retrieval.langchain import RagEmbeddings, RagRetriever, RagVectorStore

folder = Path(sys.argv[1])
encoder = SentenceTransformerEncoder(model_folder(BUNDLED_NAME), encoder_spec(BUNDLED_NAME))
store = RagVectorStore.from_texts(["Cats sleep.", "Bees buzz."], RagEmbeddings(encoder), folder=folder / "store")
retriever = store.as_retriever(search_kwargs={"k": 1})
print(retriever.invoke("the cat")[0].page_content, asyncio.run(retriever.ainvoke("a bee"))[0].page_content)
print(RagRetriever(search=lambda question, *, k: []).invoke("the cat"))
print(LangChainBackend(FakeListChatModel(responses=["Yes."])).generate([Message("user", "Why?")], Sampling()).text)
chat = RagChatModel(make_backend=lambda: ScriptedBackend(["No.", "Never."]))
print(chat.invoke("Why?").content, asyncio.run(chat.ainvoke("Why?")).content)
try:
    load_encoder("thenlper/no-such-model", cache=folder)
except ModelError as error:
    print(error)
"""


def test_langchain_sentence_transformers_and_a_missing_model_need_no_network(sealed: Machine, tmp_path: Path):
    printed = sealed("-c", LIBRARIES, str(tmp_path)).splitlines()
    assert printed[:4] == ["Cats sleep. Bees buzz.", "[]", "Yes.", "No. Never."]
    assert "rag models fetch thenlper/no-such-model" in printed[-1]
