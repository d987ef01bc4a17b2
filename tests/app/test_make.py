"""The Makefile: what the user types reaches the commands character by character and is never run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands in for .venv/bin/rag: writes down what it was called with, and with which environment.
# The shell starts Python because the path of an interpreter named by #! may hold no space.
RECORDER = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], sorted(os.environ)]) + "\\n")
"""


def _make_version() -> tuple[int, ...]:
    if shutil.which("make") is None:
        return ()
    shown = subprocess.run(["make", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"GNU Make (\d+)\.(\d+)", shown)
    return tuple(map(int, found.groups())) if found else ()


pytestmark = pytest.mark.skipif(_make_version() < (4, 0), reason="GNU make 4.0 or newer is not installed")


class Project:
    """A folder with the Makefile and a .venv whose `rag` only takes notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "calls.jsonl"
        shutil.copy(ROOT / "Makefile", folder / "Makefile")
        for name in ("pyproject.toml", "constraints.txt", "app/sample.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name in ("rag", "python"):
            program = programs / name
            program.write_text(RECORDER.format(python=sys.executable, log=str(self.log)), encoding="utf-8")
            program.chmod(0o755)
        for flavour in ("cpu", "gpu"):
            (folder / ".venv" / f".installed-{flavour}").touch()
        sample = folder / ".rag" / "sample" / ".rag-sample"
        sample.parent.mkdir(parents=True)
        sample.touch()

    def make(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(
            ["make", *arguments],
            cwd=self.folder,
            env={**inherited, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        return [json.loads(line)[0] for line in self.log.read_text(encoding="utf-8").splitlines()]

    def environments(self) -> list[list[str]]:
        return [json.loads(line)[1] for line in self.log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "a project"
    folder.mkdir()
    return Project(folder)


NASTY = [
    "When is the else clause of a try statement executed?",
    'What\'s "this" and `that`?',
    "$HOME $$HOME ${HOME} $(HOME) $x $$ $",
    "$(shell touch {pwned})",
    "`touch {pwned}`; touch {pwned} & touch {pwned} | $(touch {pwned})",
    "'; touch {pwned}; '",
    '"; touch {pwned}; "',
    "$(file >{pwned},x)$(eval $(shell touch {pwned}))",
    "back\\slash \\n \\\\ \\' \\",
    "two\nlines\n\nand a tab\there",
    "-n",
    "--help",
    "--index=/tmp/other",
    "# no comment % * ? [a] {b} ~ ! ^",
    "a = b := c += d ?= e",
    "$(Q) $(value Q) $(MAKEFLAGS)",
    "什么是生成器？ naïve 👩‍👩‍👧",
]


@pytest.mark.parametrize("question", NASTY)
@pytest.mark.parametrize("target", ["ask", "search"])
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_the_question_arrives_intact_and_nothing_is_run(project, tmp_path, question, target, way):
    pwned = tmp_path / "pwned"
    question = question.replace("{pwned}", str(pwned))
    given = (f"Q={question}",) if way == "argument" else ()
    done = project.make(target, *given, **({} if given else {"Q": question}))
    assert done.returncode == 0, done.stderr
    assert project.calls() == [
        ["ingest", "--prune", "--quiet", "--index=.rag/index", "--", ".rag/sample"],
        [target, "--index=.rag/index", "--", question],
    ]
    assert not pwned.exists()


@pytest.mark.parametrize("name", [*(text for text in NASTY if "/" not in text and "{" not in text), "sp ace", "-dash"])
def test_docs_and_index_arrive_intact(project, tmp_path, name):
    docs = tmp_path / name
    docs.mkdir()
    done = project.make("index", f"DOCS={docs}", f"INDEX={name}")
    assert done.returncode == 0, done.stderr
    assert project.calls() == [["ingest", "--prune", "--quiet", f"--index={name}", "--", str(docs)]]


def test_eval_asks_questions_made_from_the_documents(project):
    done = project.make("eval")
    assert done.returncode == 0, done.stderr
    ingest, generate, run = project.calls()
    assert ingest == ["ingest", "--prune", "--quiet", "--index=.rag/index", "--", ".rag/sample"]
    (questions,) = (word.removeprefix("--out=") for word in generate if word.startswith("--out="))
    assert generate == ["eval", "generate", "--force", f"--out={questions}", "--index=.rag/index"]
    out = questions.removesuffix(".jsonl")
    assert run == ["eval", "run", "--index=.rag/index", "--force", f"--out={out}", "--", questions]
    assert (project.folder / questions).parent.is_dir()


def test_eval_of_questions_that_were_named(project):
    """They are asked of what they bring along, or of DOCS, or of INDEX; a run is never replaced unasked."""
    (project.folder / "docs").mkdir()
    for given, index in (((), []), (("INDEX=ix",), ["--index=ix"]), (("DOCS=docs", "INDEX=ix"), ["--index=ix"])):
        project.log.unlink(missing_ok=True)
        assert project.make("eval", "DATA=my questions.csv", "OUT=o", *given).returncode == 0
        *before, run = project.calls()
        assert run == ["eval", "run", *index, "--out=o", "--", "my questions.csv"]
        assert len(before) == ("DOCS=docs" in given)
    project.log.unlink()
    assert project.make("eval", "DATA=q", "FORCE=1").returncode == 0
    (run,) = project.calls()
    assert run[:3] == ["eval", "run", "--force"]
    assert run[3].startswith("--out=.rag/eval/q-")


@pytest.mark.parametrize("data", [text for text in NASTY if not text.startswith("-")])
def test_the_name_of_a_dataset_arrives_intact_and_nothing_is_run(project, tmp_path, data):
    pwned = tmp_path / "pwned"
    data = data.replace("{pwned}", str(pwned))
    done = project.make("eval", f"DATA={data}", "OUT=o")
    assert done.returncode == 0, done.stderr
    assert project.calls() == [["eval", "run", "--out=o", "--", data]]
    assert not pwned.exists()


def test_clean_removes_what_it_made_whatever_is_named(project):
    """DATA is the user's own here: nothing of it may be removed."""
    (project.folder / "mine").mkdir()
    assert project.make("clean", "DATA=mine", "STATE=mine", "SAMPLE=mine").returncode == 0
    assert (project.folder / "mine").is_dir()
    assert not (project.folder / ".rag").exists()


def test_docs_that_would_run_something_or_do_not_exist(project, tmp_path):
    docs = f"$(shell touch {tmp_path}/pwned)`touch {tmp_path}/pwned`"
    assert project.make("index", f"DOCS={docs}", "INDEX=i").returncode == 0
    assert project.calls()[0][-1] == docs
    assert not (tmp_path / "pwned").exists()


def test_every_docs_folder_has_its_own_index(project):
    for name in ("a", "b"):
        (project.folder / name).mkdir()
    for docs in ("a", "b", "./a/", str(project.folder / "b")):
        assert project.make("index", f"DOCS={docs}").returncode == 0
    a, b, a_again, b_again = ([part for part in call if part.startswith("--index=")] for call in project.calls())
    assert a == a_again != b == b_again
    assert a[0].startswith("--index=.rag/index-")


def test_no_variable_of_ours_looks_like_a_setting(project):
    assert project.make("ask", "Q=q").returncode == 0
    assert [name for names in project.environments() for name in names if name.startswith("RAG_")] == [
        name for _ in range(2) for name in sorted(os.environ) if name.startswith("RAG_")
    ]
    assert all("Q" not in names for names in project.environments())


@pytest.mark.parametrize("given", [(), ("Q=",), ("Q=  \n ",)])
@pytest.mark.parametrize("target", ["ask", "search"])
def test_without_a_question_there_is_a_usage_line_and_no_work(project, target, given):
    done = project.make(target, *given)
    assert done.returncode == 2
    assert f'usage: make {target} Q="your question"' in done.stderr
    assert not project.log.exists()


def test_help_is_the_default_and_names_every_target(project):
    shown = project.make().stdout
    targets = [
        "help", "setup", "ask", "search", "index", "serve", "eval", "test", "coverage", "stress", "bench",
        "bench-evaluation", "bench-reader", "fmt", "check", "doctor", "clean",
    ]  # fmt: skip
    assert re.findall(r"^  ([a-z-]+) +\w", shown, re.MULTILINE) == targets
    for target in targets:
        assert re.search(rf"^  {target:<16} [A-Z]", shown, re.MULTILINE), target


def test_setup_done_is_not_done_again(project):
    done = project.make("setup", "EXTRA=cpu")
    assert done.returncode == 0
    assert not project.log.exists()


def test_clean_keeps_the_environment_and_the_documents(project):
    (project.folder / "docs").mkdir()
    assert project.make("clean").returncode == 0
    assert not (project.folder / ".rag").exists()
    assert (project.folder / ".venv" / "bin" / "rag").exists()
    assert (project.folder / "docs").exists()


def test_make_test_is_the_whole_suite_and_ci_runs_exactly_that(project):
    assert project.make("test").returncode == 0
    assert project.calls() == [["-m", "pytest", "--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"]]
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_dependency_is_pinned_exactly():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    plain = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    assert [name for name in wanted if re.split(r"[>=<\[ ]", name)[0].lower() not in plain] == []
    assert pins["torch"] == "2.13.0"
