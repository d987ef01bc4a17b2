"""The run loop: every question once, whatever interrupts it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eval.errors import EvalError
from eval.folder import PREDICTIONS, begun
from eval.records import Example, Outcome
from eval.run import predicted, run
from reader.records import Answer, PromptInfo, ReaderInfo, Written

EXAMPLES = tuple(Example(f"q{number}", f"What is {number}?") for number in range(60))
MANIFEST = {"format": 1, "name": "numbers"}
ROOT = Path(__file__).resolve().parents[2]


class Echo:
    """Answers with the question; `at_once` at a time. Fails on the questions of `fails`."""

    def __init__(self, *, at_once=1, fails=(), seconds=0.0):
        self.at_once, self.fails, self.seconds = at_once, fails, seconds
        self.asked = []

    def outcomes(self, examples):
        self.asked += [one.example_id for one in examples]
        time.sleep(self.seconds * len(examples))
        return [EvalError("no") if one.example_id in self.fails else outcome(one) for one in examples]


def outcome(example):
    answer = Answer(example.question, example.question[::-1], False, (), (), ReaderInfo("echo", "none"))
    return Outcome((), (), 0.5, {"answer": 1.0}, answer)


def made(folder):
    return [json.loads(line) for line in (folder / PREDICTIONS).read_text().splitlines()]


@pytest.mark.parametrize("at_once", [1, 7, 60, 1000])
def test_every_question_is_asked_once_and_in_order(tmp_path, at_once):
    system = Echo(at_once=at_once)
    seen = []
    with begun(tmp_path / "run", MANIFEST) as folder:
        assert run(EXAMPLES, system, folder, report=lambda *counts: seen.append(counts))
    assert [line["id"] for line in made(tmp_path / "run")] == system.asked == [one.example_id for one in EXAMPLES]
    assert seen[0] == (0, 60)
    assert seen[-1] == (60, 60)
    assert seen == sorted(seen)


def test_a_failure_is_written_down_and_the_rest_asked(tmp_path):
    with begun(tmp_path / "run", MANIFEST) as folder:
        run(EXAMPLES, Echo(at_once=8, fails={"q3", "q59"}), folder)
    lines = made(tmp_path / "run")
    assert len(lines) == 60
    assert [line["id"] for line in lines if line["error"]] == ["q3", "q59"]
    assert lines[3]["answer"] is None


def test_what_was_asked_is_not_asked_again(tmp_path):
    stops = iter([False, False, True])
    with begun(tmp_path / "run", MANIFEST) as folder:
        assert not run(EXAMPLES, Echo(at_once=10), folder, stop=lambda: next(stops))
    system = Echo(at_once=10)
    with begun(tmp_path / "run", MANIFEST) as folder:
        assert len(folder.done) == 20
        assert run(EXAMPLES, system, folder)
    assert len(system.asked) == 40
    assert {line["id"] for line in made(tmp_path / "run")} == {one.example_id for one in EXAMPLES}


def test_tokens_are_those_of_the_prompt_and_of_what_was_written():
    found = outcome(EXAMPLES[0])
    answer = Answer(
        "?", "a", False, (), (), ReaderInfo("x", "y"), PromptInfo("answer-en", "0", 120), written=Written("a", 3)
    )
    prediction = predicted(EXAMPLES[0], Outcome((), (), 0.5, {}, answer))
    assert prediction.tokens == {"prompt": 120, "answer": 3}
    assert predicted(EXAMPLES[0], found).tokens == {}


ALONE = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_run import EXAMPLES, MANIFEST, Echo, begun, run
with begun(Path(sys.argv[1]), MANIFEST) as folder:
    run(EXAMPLES, Echo(at_once=int(sys.argv[2]), seconds=0.02), folder)
print("done")
"""


@pytest.mark.parametrize("at_once", [1, 9])
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path, at_once):
    """The loop itself, with a system that answers after 20 ms, killed at random moments."""
    with begun(tmp_path / "undisturbed", MANIFEST) as folder:
        run(EXAMPLES, Echo(at_once=at_once), folder)
    script = ALONE.format(root=str(ROOT), tests=str(Path(__file__).parent))
    draw = random.Random(at_once)  # noqa: S311 - reproducible
    kills = 0
    while True:
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "run"), str(at_once)], stdout=subprocess.PIPE, cwd=tmp_path
        )
        moment = time.monotonic() + 0.4 + draw.random() * 0.4
        while child.poll() is None and (time.monotonic() < moment or kills >= 20):
            time.sleep(0.002)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        output, _ = child.communicate()
        if b"done" in output:
            break
        assert child.returncode == -signal.SIGKILL
    assert kills > 1
    assert sorted(made(tmp_path / "run"), key=lambda line: line["id"]) == sorted(
        made(tmp_path / "undisturbed"), key=lambda line: line["id"]
    )
