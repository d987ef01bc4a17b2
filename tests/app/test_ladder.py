"""The quantisation ladder on a small random model: real loading, real numbers."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
import typer
from typer.testing import CliRunner

from app.cli import bench
from app.cli.common import RagGroup, Session
from app.ladder import RUNGS, Rung, lead, make_prompts, tensor_bytes
from bench.small_models import SMALL_SHAPE, save_small_model
from reader.backends.loading import ZephyrSettings
from reader.backends.memory import Load, Shape
from reader.backends.zephyr import ZephyrBackend

QUANTISED_CACHE = find_spec("hqq") is not None
SHAPE = Shape.of({**SMALL_SHAPE, "hidden_size": 256, "num_key_value_heads": 4})


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that reads no more than 256 tokens, so that the prompts are short."""
    sizes = {"initializer_range": 0.2, "hidden_size": 256, "num_key_value_heads": 4, "max_position_embeddings": 256}
    return save_small_model(tmp_path_factory.mktemp("ladder") / "small", **sizes)


def command(*arguments):
    app = typer.Typer(cls=RagGroup)
    app.add_typer(bench.app, name="bench")
    return CliRunner().invoke(app, ["bench", "ladder", *arguments], obj=Session(environ={"HOME": "/nowhere"}))


@pytest.fixture(scope="module")
def rungs(folder):
    """As the command prints them; one climb serves every test."""
    done = command("--model", str(folder), "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines() == [f"rung {n} of 4: {name}" for n, (name, _, _) in enumerate(RUNGS, start=1)]
    return {rung["name"]: Rung(**rung) for rung in json.loads(done.stdout)["ladder"]}


def test_every_rung_is_measured_or_says_why_not(rungs):
    assert list(rungs) == [name for name, _, _ in RUNGS]
    for name, rung in rungs.items():
        if "KV" in name and not QUANTISED_CACHE:
            assert "hqq" in rung.failure
        else:
            assert rung.failure == ""
            assert min(rung.prefill_tokens_per_second, rung.decode_tokens_per_second, rung.load_seconds) > 0


def test_memory_is_what_the_formula_says(rungs):
    for name, quantization in (("bf16", "none"), ("NF4", "4bit")):
        load = Load(quantization, "full", 4096)
        # Rotary frequencies, and on some processors NF4's bytes a block as two of them, are not in the formula.
        assert rungs[name].weight_bytes == pytest.approx(SHAPE.weight_bytes(load), rel=0.01)
        assert rungs[name].kv_token_bytes == pytest.approx(SHAPE.kv_token_bytes(load), rel=0.01)


@pytest.mark.skipif(not QUANTISED_CACHE, reason="the quantised key-value cache needs hqq")
def test_a_quantised_cache_is_smaller(rungs):
    assert rungs["bf16, KV 8-bit"].kv_token_bytes < 0.65 * rungs["bf16"].kv_token_bytes
    assert rungs["bf16, KV 8-bit"].agreement > 0.5


def test_agreement_is_with_the_first_rung(rungs):
    assert rungs["bf16"].agreement is None
    assert 0 < rungs["NF4"].agreement < 1


def test_a_model_that_is_led_along_its_own_answer_agrees_with_itself(folder):
    backend = ZephyrBackend(ZephyrSettings(model=str(folder), device="cpu", quantization="none", dtype="float32"))
    prompt = make_prompts(backend)[0][:64]
    own = lead(backend, prompt, answer=None, tokens=6)
    assert lead(backend, prompt, answer=own.tokens, tokens=6).tokens == own.tokens
    # 64 tokens of the prompt and 5 of the answer; two tensors, 2 layers, 4 heads of 64 numbers of 4 bytes.
    assert own.kv_bytes == (64 + 5) * 2 * 2 * 4 * 64 * 4


def test_bytes_of_tensors_are_counted_once_wherever_they_hang():
    shared = torch.zeros(10, dtype=torch.uint8)
    assert tensor_bytes({"a": shared, "b": [shared, shared.view(2, 5)], "c": (torch.zeros(3), 7, "text")}) == 10 + 12


def test_the_command_shows_people_a_table(rungs, capsys):
    bench._print([*rungs.values(), Rung("broken", failure="no memory")])
    shown, said = capsys.readouterr()
    assert "same tokens" in shown.splitlines()[0]
    assert shown.splitlines()[1].startswith("bf16")
    assert "tokens/s" in shown
    assert said == "broken: no memory\n"


def test_the_command_fails_where_no_rung_could_be_measured():
    done = command("--model", "nobody/no-such-model", "--json")
    assert done.exit_code == 1
    record = json.loads(done.stdout)
    assert [rung["name"] for rung in record["ladder"]] == [name for name, _, _ in RUNGS]
    assert all("no-such-model" in rung["failure"] for rung in record["ladder"])
