"""Filters of system calls: the program says what the rules say, the numbers are the kernel's, and it holds for all."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import sandbox
from ingest.sandbox import ALLOW, KILL, REFUSE, Rule, program

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
KNOWN = {
    machine: {name: int(numbers[column]) for name, numbers in sandbox._NUMBERS.items() if numbers[column] != "-"}
    for column, machine in enumerate(MACHINES)
}
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has filters of system calls")


def run(code: bytes, *, architecture: int, number: int, arguments: tuple[int, ...]) -> int:
    """What the kernel makes of a call: classic BPF, as its manual describes it."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments)
    steps = list(struct.iter_unpack("=HBBI", code))
    at = value = 0
    while True:
        operation, if_so, if_not, constant = steps[at]
        at += 1
        match operation:
            case 0x20:
                value = struct.unpack_from("<I", data, constant)[0]
            case 0x54:
                value &= constant
            case 0x15:
                at += if_so if value == constant else if_not
            case 0x35:
                at += if_so if value >= constant else if_not
            case 0x06:
                return constant
            case _:
                raise AssertionError(f"no such operation: {operation}")


def oracle(rules: list[Rule], otherwise: int, machine: str, number: int, arguments: tuple[int, ...]) -> int:
    words = [half for argument in arguments for half in (argument & 0xFFFFFFFF, argument >> 32)]
    for rule in rules:
        if KNOWN[machine].get(rule.call) == number and all(words[w] & mask == v for w, mask, v in rule.wanted):
            return rule.then
    return otherwise


WORDS = st.integers(0, 2**32 - 1) | st.integers(0, 3)
RULES = st.lists(
    st.builds(
        Rule,
        st.sampled_from(["read", "openat", "open", "fcntl", "prlimit64"]),
        st.lists(st.tuples(st.integers(0, 11), WORDS, WORDS), max_size=3).map(tuple),
        st.sampled_from([ALLOW, REFUSE, KILL]),
    ),
    max_size=8,
)


@given(
    rules=RULES,
    machine=st.sampled_from([*MACHINES]),
    number=st.sampled_from([0, 2, 25, 56, 63, 72, 257, 261, 302]) | st.integers(0, 2**30 - 1),
    arguments=st.tuples(*[st.integers(0, 3) | st.integers(0, 2**64 - 1)] * 6),
)
def test_a_filter_does_what_its_rules_say(rules, machine, number, arguments):
    code = program(rules, otherwise=REFUSE, machine=machine)
    done = run(code, architecture=MACHINES[machine], number=number, arguments=arguments)
    assert done == oracle(rules, REFUSE, machine, number, arguments)


@given(machine=st.sampled_from([*MACHINES]), number=st.integers(0, 2**32 - 1), architecture=st.integers(0, 2**32 - 1))
def test_calls_in_the_manner_of_another_architecture_kill(machine, number, architecture):
    code = program([], otherwise=ALLOW, machine=machine)
    foreign = run(code, architecture=architecture, number=number, arguments=(0,) * 6)
    assert foreign == (ALLOW if architecture == MACHINES[machine] and number < 1 << 30 else KILL)
    x32 = run(code, architecture=MACHINES[machine], number=number | 1 << 30, arguments=(0,) * 6)
    assert x32 == KILL


@pytest.mark.parametrize(
    ("machine", "file"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_numbers_are_those_of_the_kernel(machine, file):
    header = Path("/usr/include") / file
    if not header.is_file():
        pytest.skip(f"{header} is not here")
    said = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text(encoding="utf-8"), re.MULTILINE)
    numbers = {name: int(number) for name, number in said}
    if machine == "aarch64":
        numbers["newfstatat"] = numbers["fstatat"]
    assert {name: numbers.get(name) for name in sandbox._NUMBERS} == {
        name: KNOWN[machine].get(name) for name in sandbox._NUMBERS
    }


CHILD = """
import os, socket, sys, threading
from ingest.sandbox import ALLOW, KILL, REFUSE, Rule, install
ready, go, seen = threading.Event(), threading.Event(), []

def other():
    ready.set()
    go.wait()
    try:
        socket.socket()
    except PermissionError:
        seen.append("refused")

thread = threading.Thread(target=other)
thread.start()
ready.wait()
print(install([Rule("socket", ((0, 0xFFFFFFFF, socket.AF_INET),), int(sys.argv[1]))], otherwise=ALLOW), flush=True)
socket.socket(socket.AF_UNIX).close()
go.set()
thread.join()
print(*seen, flush=True)
"""


@needs_linux
@pytest.mark.parametrize(("then", "status", "printed"), [(REFUSE, 0, "0\nrefused\n"), (KILL, -signal.SIGSYS, "0\n")])
def test_a_filter_holds_for_threads_that_run_already(then, status, printed):
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(then)], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (status, printed), done.stderr
