"""The model on this machine, through its real loading path: a small random Mistral with Zephyr's tokenizer."""

from __future__ import annotations

import json
import random
import shutil
import sys
import threading
from copy import copy, deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from doubles import consume
from hypothesis import given
from hypothesis import strategies as st

from bench.small_models import ZEPHYR_SHAPE, ZEPHYR_TEMPLATE
from reader.backends.base import REASONING_LEFT_OUT, Generation, Message, Sampling, drain
from reader.backends.batching import Batching
from reader.backends.generation import Draft, Rows, is_out_of_memory, shared_prefix
from reader.backends.loading import ZephyrSettings
from reader.backends.zephyr import ZephyrBackend
from retrieval.errors import AnswerError, ConfigError, ModelError, PromptTooLongError

GREEDY = Sampling(max_tokens=12, temperature=0, repetition_penalty=1.0)
PENALISED = Sampling(max_tokens=12, temperature=0, repetition_penalty=1.3)
DRAWN = Sampling(max_tokens=12, temperature=0.9, repetition_penalty=1.1, seed=7)
SYSTEM = Message("system", "You answer questions from numbered passages of the user's own documents. Use nothing else.")
QUESTIONS = [
    "Why?",
    "What does the yield expression do in a generator function?",
    "巴黎是哪个国家的首都？ 请回答。",
    "List, in order and with a short reason for each of them, " + ", ".join(f"the item {n}" for n in range(40)),
    "What is the difference between is and ==?",
]
CONVERSATIONS = [(SYSTEM, Message("user", question)) for question in QUESTIONS]

pytestmark = pytest.mark.usefixtures("one_thread")


def exact(folder, **changes) -> ZephyrBackend:
    """Without quantisation, in float32: what is compared token by token."""
    return ZephyrBackend(
        ZephyrSettings(model=str(folder), device="cpu", quantization="none", dtype="float32", **changes)
    )


def renewed(backend: ZephyrBackend, model=None, *, most=64) -> ZephyrBackend:
    """A backend that has read nothing and shares the tokenizer, and the weights where no other model is given."""
    made = copy(backend)
    made._loaded, made._kept, made._notices = model or backend.weights(), (), []
    made._batching = Batching(made, most=most)
    return made


@pytest.fixture(scope="session")
def folder(small_zephyr):
    return small_zephyr


@pytest.fixture(scope="session")
def sliding(tmp_path_factory, folder):
    """The same with attention that reaches over 32 tokens."""
    changed = shutil.copytree(folder, tmp_path_factory.mktemp("models") / "sliding")
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "sliding_window": 32}))
    return changed


@pytest.fixture(scope="session")
def loaded(folder):
    return exact(folder)


@pytest.fixture
def backend(loaded):
    return renewed(loaded)


@pytest.fixture(scope="session")
def alone(loaded):
    """What a backend writes that has read nothing before."""

    def generate(messages, sampling):
        generation = renewed(loaded).generate(messages, sampling)
        assert generation.reused_tokens == 0
        return generation

    return cache(generate)


@pytest.fixture(scope="session")
def nf4(folder):
    return ZephyrBackend(ZephyrSettings(model=str(folder), device="cpu"))


def writing(text, backend, *, end=True):
    """A backend that writes a given text: the token before decides which is next. No token may come twice in it."""
    tokenizer = backend.tokenizer
    (last,) = tokenizer.encode("\n", add_special_tokens=False)[-1:]
    written = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    chain = [last, *written, *([tokenizer.eos_token_id] if end else [])]
    assert len(set(chain)) == len(chain), tokenizer.convert_ids_to_tokens(chain)
    model = deepcopy(backend.weights())
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings = model.model.embed_tokens.weight
        embeddings.normal_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[chain[1:]] = embeddings[chain[:-1]]
    return renewed(backend, model)


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_layers_are_nf4_and_the_rest_is_not(nf4):
    from bitsandbytes.nn import Linear4bit

    model = nf4.weights()
    kinds = {name.rsplit(".", 1)[-1]: type(layer) for name, layer in model.named_modules()}
    matrices = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert all(kinds[name] is Linear4bit for name in matrices)
    assert kinds["lm_head"] is torch.nn.Linear
    layer = model.model.layers[0].mlp.gate_proj
    assert layer.weight.quant_type == "nf4"
    assert layer.weight.compress_statistics
    assert layer.compute_dtype is torch.bfloat16
    assert model.lm_head.weight.dtype is torch.bfloat16


@pytest.mark.parametrize("quantization", ["4bit", "8bit", "none"])
def test_every_precision_answers(folder, quantization):
    backend = ZephyrBackend(ZephyrSettings(model=str(folder), device="cpu", quantization=quantization))
    generation = backend.generate(CONVERSATIONS[0], GREEDY)
    assert generation.answer_tokens == 12
    assert not generation.complete
    assert backend.notices == ()


def test_weights_are_loaded_when_they_are_needed_and_once(folder):
    said = []
    backend = ZephyrBackend(ZephyrSettings(model=str(folder), device="cpu"), report=said.append)
    assert backend.window == 4096
    assert backend.count_tokens("a few words") >= 3
    assert backend.prompt_tokens(CONVERSATIONS[0]) > 20
    assert said == []
    backend.generate(CONVERSATIONS[0], GREEDY)
    backend.generate(CONVERSATIONS[1], GREEDY)
    assert backend.weights() is backend.weights()
    loading, loaded = said
    assert loading == f"loading {folder} (4-bit NF4) on cpu"
    assert loaded.startswith(f"loaded {folder} in ")


def test_a_device_map_is_passed_on(folder):
    assert exact(folder, device_map={"model": "cpu", "lm_head": "cpu"}).weights().device.type == "cpu"
    with pytest.raises(ModelError, match="no-such-device"):
        exact(folder, device_map={"": "no-such-device"}).weights()


def test_libraries_are_as_they_were_after_loading(folder):
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    exact(folder).weights()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


def test_no_machine_code_from_the_hub(backend):
    backend.weights()
    assert sys.modules["kernels"] is None


def test_rope_scaling_reaches_the_model(folder, alone):
    backend = exact(folder, rope_scaling={"rope_type": "linear", "factor": 2.0}, window=65_536)
    rope = backend.weights().model.rotary_emb
    assert rope.rope_type == "linear"
    assert rope.config.rope_parameters["rope_theta"] == 10_000.0
    assert backend.window == 65_536
    assert backend.generate(CONVERSATIONS[1], GREEDY) != alone(CONVERSATIONS[1], GREEDY)


@pytest.mark.parametrize("rope_scaling", [{"rope_type": "no such"}, {"rope_type": "yarn"}])
def test_bad_rope_scaling_is_refused(folder, rope_scaling):
    with pytest.raises(ModelError, match="cannot be used"):
        exact(folder, rope_scaling=rope_scaling).weights()


def test_a_window_beyond_the_positions_is_refused(folder):
    with pytest.raises(ConfigError, match=r"40,000 tokens is more than the 32,768"):
        exact(folder, window=40_000)


def test_an_unknown_device_is_refused(folder):
    with pytest.raises(ConfigError, match="device is 'tpu'; expected auto, cpu or cuda"):
        ZephyrBackend(ZephyrSettings(model=str(folder), device="tpu"))


def test_a_missing_model_names_the_places_and_the_command():
    with pytest.raises(ModelError, match=r"nobody/no-such-model.*nobody/no-such-model"):
        ZephyrBackend(ZephyrSettings(model="nobody/no-such-model", device="cpu"))


def test_weights_that_could_hold_programs_are_refused(tmp_path, folder):
    unsafe = shutil.copytree(folder, tmp_path / "unsafe")
    (unsafe / "model.safetensors").rename(unsafe / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        ZephyrBackend(ZephyrSettings(model=str(unsafe), device="cpu"))


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, b"[]"], ids=["empty", "bytes", "list"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_damaged_files_are_model_errors(tmp_path, folder, name, damage):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / name).write_bytes(damage)
    with pytest.raises(ModelError, match="damaged"):
        ZephyrBackend(ZephyrSettings(model=str(damaged), device="cpu"))


def test_damaged_weights_are_a_model_error(tmp_path, folder):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    backend = exact(damaged)
    with pytest.raises(ModelError, match="cannot be used"):
        backend.generate(CONVERSATIONS[0], GREEDY)


def test_code_that_comes_with_a_model_is_not_run(tmp_path, folder):
    hostile = shutil.copytree(folder, tmp_path / "hostile")
    config = json.loads((hostile / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (hostile / "config.json").write_text(json.dumps(config))
    (hostile / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass EvilConfig: ...\n")
    with pytest.raises(ModelError, match="cannot be used"):
        exact(hostile)
    assert not (tmp_path / "ran").exists()


def test_a_model_without_chat_template_is_refused(tmp_path, folder):
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="chat template"):
        exact(bare)


def test_too_large_a_model_is_refused_before_it_is_read(tmp_path, folder):
    large = shutil.copytree(folder, tmp_path / "large")
    shape = {**ZEPHYR_SHAPE, "num_hidden_layers": 32_000}
    (large / "config.json").write_text(json.dumps({"model_type": "mistral", **shape}))
    (large / "model.safetensors").write_bytes(b"")
    backend = ZephyrBackend(ZephyrSettings(model=str(large), device="cpu"))
    with pytest.raises(ModelError, match=r"needs 4,?\d+\.\d GB on cpu .* nothing smaller fits"):
        backend.generate(CONVERSATIONS[0], GREEDY)


def test_scores_that_are_no_numbers_are_a_model_error(backend):
    model = deepcopy(backend.weights())
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    broken = renewed(backend, model)
    for call in (
        lambda: broken.generate(CONVERSATIONS[0], GREEDY),
        lambda: broken.generate_many(CONVERSATIONS, GREEDY),
        lambda: broken.generate_continuously([[1, 2, 3]], GREEDY, report=lambda _: None),
    ):
        with pytest.raises(ModelError, match="not numbers"):
            call()


# ---- answers ---------------------------------------------------------------------------------------------------------


def oracle(backend, messages, sampling):
    """The greedy tokens of transformers' own generate."""
    prompt = torch.tensor([backend._template.encode(messages)])
    output = backend.weights().generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=sampling.max_tokens,
        repetition_penalty=sampling.repetition_penalty,
        pad_token_id=2,
    )
    return backend.tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("sampling", [GREEDY, PENALISED])
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_greedy_equals_transformers_generate(backend, messages, sampling):
    generation = backend.generate(messages, sampling)
    assert generation.text == oracle(backend, messages, sampling)
    assert generation.prompt_tokens == backend.prompt_tokens(messages)
    assert generation.answer_tokens == 12


@pytest.mark.parametrize("sampling", [GREEDY, PENALISED, DRAWN])
def test_a_batch_gives_what_each_one_gives_alone(backend, alone, sampling):
    done = []
    together = backend.generate_many(CONVERSATIONS, sampling, report=done.append)
    expected = [alone(messages, sampling) for messages in CONVERSATIONS]
    assert [each.text for each in together] == [each.text for each in expected]
    assert [each.answer_tokens for each in together] == [each.answer_tokens for each in expected]
    assert len({each.text for each in together}) == len(CONVERSATIONS)
    assert done[-1] == len(CONVERSATIONS)
    assert backend.notices == ()


def test_a_batch_reads_what_prompts_share_once(backend):
    shared = shared_prefix([backend._template.encode(messages) for messages in CONVERSATIONS])
    reused = [each.reused_tokens for each in backend.generate_many(CONVERSATIONS, GREEDY)]
    assert shared > 20
    assert sum(tokens >= shared for tokens in reused) == len(CONVERSATIONS) - 1


@pytest.fixture(scope="session")
def uneven(loaded):
    """A backend whose answers end after different lengths, how it samples, and what it writes for each one alone."""
    ending = renewed(loaded)
    prompts = [ending._template.encode(messages) for messages in CONVERSATIONS]
    ending._stops |= {tokens(ending, prompt, 40)[3 + 7 * number] for number, prompt in enumerate(prompts)}
    sampling = replace(PENALISED, max_tokens=40)
    expected = [renewed(ending).generate(messages, sampling) for messages in CONVERSATIONS]
    assert len({each.answer_tokens for each in expected}) > 2
    return ending, sampling, expected


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_come_in_as_others_leave(uneven, size):
    """Answers of different length, in fewer rows than there are questions: as each one alone."""
    ending, sampling, expected = uneven
    written = renewed(ending, most=size).generate_many(CONVERSATIONS, sampling)
    assert [replace(one, reused_tokens=0) for one in written] == expected


def test_padded_rows_end_where_they_end_alone(sliding):
    """Sliding caches cannot be cut: rows that are done go on beside the others, unheard."""
    backend = exact(sliding)
    sampling = replace(PENALISED, max_tokens=30)
    prompts = [backend._template.encode(messages) for messages in CONVERSATIONS]
    backend._stops |= {tokens(backend, prompt, 30)[3 + 5 * number] for number, prompt in enumerate(prompts)}
    expected = [backend.generate(messages, sampling) for messages in CONVERSATIONS]
    assert len({each.answer_tokens for each in expected}) > 2
    assert backend.generate_many(CONVERSATIONS, sampling) == expected


def test_stop_tokens_are_the_ends_of_turns(backend):
    assert backend._stops == {2}


def tokens(backend, prompt, count):
    """What a prompt is gone on with by the best token of every step, whatever ends answers."""
    rows = Rows(backend.weights(), [prompt], PENALISED, cache=backend.new_cache())
    return [rows.step()[0] for _ in range(count)]


def test_continuous_batching_gives_the_same(backend):
    done = []
    prompts = [backend._template.encode(messages) for messages in CONVERSATIONS]
    together = backend.generate_continuously(prompts, GREEDY, report=done.append)
    assert [each.text for each in together] == [backend.generate(each, GREEDY).text for each in CONVERSATIONS]
    assert done == [1, 2, 3, 4, 5]
    assert backend.weights().config._attn_implementation == "sdpa"


def test_an_empty_batch(backend):
    assert backend.generate_many([], GREEDY) == []


def test_the_pieces_of_a_stream_are_the_answer(backend):
    pieces, generation = consume(backend.stream(CONVERSATIONS[2], DRAWN))
    assert len(pieces) > 5
    assert all(pieces)
    assert "".join(pieces) == generation.text
    assert generation.text == backend.generate(CONVERSATIONS[2], DRAWN).text


def test_seeds_repeat_and_leave_the_rest_of_the_program_alone(backend):
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(1), random.random()  # noqa: S311 - this is about those very sources
    torch.manual_seed(5)
    random.seed(5)
    answers = {
        seed: {backend.generate(CONVERSATIONS[1], Sampling(12, 0.9, 1.0, seed)).text for _ in range(2)}
        for seed in range(4)
    }
    assert all(len(texts) == 1 for texts in answers.values())
    assert len(set.union(*answers.values())) == 4
    assert len({backend.generate(CONVERSATIONS[1], Sampling(12, 0.9, 1.0)).text for _ in range(4)}) == 4
    assert (torch.rand(1), random.random()) == expected  # noqa: S311


def test_drawing_follows_the_probabilities(backend):
    """The first token of 200 answers is the likeliest one as often as its probability says."""
    prompt = torch.tensor([backend._template.encode(CONVERSATIONS[0])])
    with torch.no_grad():
        logits = backend.weights()(prompt, logits_to_keep=1).logits[0, -1]
    likeliest = backend._decode([int(logits.argmax())])
    by_temperature = {each / 10: float((logits * 10 / each).softmax(dim=-1).max()) for each in range(1, 30)}
    temperature, probability = next((each, share) for each, share in by_temperature.items() if share < 0.7)
    assert probability > 0.2
    drawn = [backend.generate(CONVERSATIONS[0], Sampling(1, temperature, 1.0, seed)).text for seed in range(200)]
    spread = (200 * probability * (1 - probability)) ** 0.5
    assert abs(drawn.count(likeliest) - 200 * probability) < 4 * spread


def test_a_prompt_over_the_window_is_refused_before_anything_is_computed(folder):
    said = []
    settings = ZephyrSettings(model=str(folder), device="cpu", quantization="none", window=128)
    backend = ZephyrBackend(settings, report=said.append)
    room = 128 - backend.prompt_tokens(CONVERSATIONS[0])
    runs = (
        lambda tokens: backend.generate(CONVERSATIONS[0], Sampling(tokens, temperature=0)),
        lambda tokens: backend.generate_many([CONVERSATIONS[0]], Sampling(tokens, temperature=0)),
    )
    for run in runs:
        with pytest.raises(PromptTooLongError, match=rf"{128 - room} \+ {room + 1} tokens, the window of .* is 128"):
            run(room + 1)
    assert said == []
    for run in runs:
        run(room)
    assert said


# ---- what was read before --------------------------------------------------------------------------------------------


def test_a_prompt_that_begins_like_the_last_is_read_from_where_it_differs(backend, alone):
    assert backend.generate(CONVERSATIONS[1], GREEDY).reused_tokens == 0
    for messages in (CONVERSATIONS[3], CONVERSATIONS[4], CONVERSATIONS[4], CONVERSATIONS[2]):
        again = backend.generate(messages, PENALISED)
        assert 20 < again.reused_tokens < again.prompt_tokens
        assert again.text == alone(messages, PENALISED).text
    other = backend.generate((Message("user", "entirely different"),), GREEDY)
    assert other.reused_tokens < 10
    assert other.text == alone((Message("user", "entirely different"),), GREEDY).text


def test_a_conversation_that_goes_on_is_not_read_again(backend, alone):
    first = backend.generate(CONVERSATIONS[1], GREEDY)
    longer = (*CONVERSATIONS[1], Message("assistant", "It makes one."), Message("user", "Of what?"))
    second = backend.generate(longer, GREEDY)
    assert second.reused_tokens >= first.prompt_tokens - 2
    assert second.text == alone(longer, GREEDY).text


def test_a_chat_whose_questions_are_rewritten_in_between_is_not_read_again(backend, alone):
    """Answer, rewritten question, answer: the second answer takes over what it has in common with the first."""
    passages = "Passages: " + " ".join(f"[{n}] A generator gives out {n} values." for n in range(20))
    talk = (Message("user", "What is a generator?"), Message("assistant", "A function that yields [1]."))
    first = (SYSTEM, *talk, Message("user", f"{passages} Question: Of what?"))
    rewrite = (Message("system", "Rewrite the question."), Message("user", "Q: What is it? And of what?"))
    second = (*first[:3], Message("user", "Of what?"), Message("assistant", "Of values."), Message("user", passages))
    backend.generate(first, GREEDY)
    rewritten = backend.generate(rewrite, GREEDY)
    answer = backend.generate(second, GREEDY)
    shared = shared_prefix([backend._template.encode(first), backend._template.encode(second)])
    assert answer.reused_tokens == shared > backend.prompt_tokens(first[:2])
    assert [rewritten.text, answer.text] == [alone(rewrite, GREEDY).text, alone(second, GREEDY).text]
    assert backend.generate(rewrite, GREEDY).reused_tokens == rewritten.prompt_tokens - 1


def test_an_older_prompt_is_kept_only_where_it_takes_little_memory(backend):
    backend._shape = replace(backend._shape, layers=10**9)
    for messages in (CONVERSATIONS[1], (Message("user", "entirely different"),), CONVERSATIONS[1]):
        last = backend.generate(messages, GREEDY)
    assert last.reused_tokens < 10


def test_a_stream_that_is_closed_stops_the_computation(backend, alone):
    steps = []
    with backend.weights().register_forward_hook(lambda *_: steps.append(1)):
        stream = backend.stream(CONVERSATIONS[1], Sampling(max_tokens=500, temperature=0))
        next(stream)
        stream.close()
    assert len(steps) < 10
    again = backend.generate(CONVERSATIONS[1], GREEDY)
    assert again.reused_tokens == again.prompt_tokens - 1
    assert again.text == alone(CONVERSATIONS[1], GREEDY).text


def test_streams_side_by_side_do_not_touch_each_other(backend, alone):
    expected = [alone(messages, DRAWN).text for messages in CONVERSATIONS[:2]]
    first, second = (backend.stream(messages, DRAWN) for messages in CONVERSATIONS[:2])
    next(first)
    next(second)
    assert backend.generate(CONVERSATIONS[0], DRAWN).text == expected[0]
    assert [drain(first).text, drain(second).text] == expected


def test_threads_do_not_touch_each_other(backend, alone):
    expected = [alone(messages, GREEDY).text for messages in CONVERSATIONS]
    found: dict[int, list[str]] = {}

    def ask(number):
        found[number] = [backend.generate(messages, GREEDY).text for messages in CONVERSATIONS]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected] * 3


def test_sliding_attention_is_off_within_its_reach_and_on_beyond(sliding, backend):
    assert backend.weights().config.sliding_window is None
    backend = exact(sliding)
    assert backend.weights().config.sliding_window == 32
    for messages in CONVERSATIONS:
        generation = backend.generate(messages, GREEDY)
        assert generation.reused_tokens == 0
        assert generation.text == oracle(backend, messages, GREEDY)
    expected = [backend.generate(messages, GREEDY).text for messages in CONVERSATIONS]
    assert [each.text for each in backend.generate_many(CONVERSATIONS, GREEDY)] == expected
    with pytest.raises(ModelError, match="sliding attention, which a quantised key-value cache cannot serve"):
        exact(sliding, kv_cache="8bit")


@pytest.mark.parametrize("kv_cache", ["8bit", "4bit"])
def test_a_quantised_cache_answers_and_begins_the_same(folder, alone, kv_cache):
    pytest.importorskip("hqq", reason="the quantised key-value cache needs hqq")
    quantised = exact(folder, kv_cache=kv_cache)
    one_by_one = [quantised.generate(messages, GREEDY) for messages in CONVERSATIONS]
    assert all(each.answer_tokens == 12 and each.reused_tokens == 0 for each in one_by_one)
    # The prompt itself is read in full precision, so the first token is the same.
    first = [alone(messages, replace(GREEDY, max_tokens=1)).text for messages in CONVERSATIONS]
    together = quantised.generate_many(CONVERSATIONS, GREEDY)
    for generation, begins in zip([*one_by_one, *together], [*first, *first], strict=True):
        assert generation.text.startswith(begins)


# ---- what an answer is -----------------------------------------------------------------------------------------------


def test_reasoning_is_no_part_of_an_answer(backend):
    """The chain cannot close it: no token may come twice. So the rest is by hand."""
    backend = writing("<think> So it may well be?", backend)
    ask, sampling = (Message("user", "?"),), Sampling(60, 0, 1.0)
    stream = backend.stream(ask, sampling)
    with pytest.raises(AnswerError, match="wrote nothing but reasoning; raise max_answer_tokens"):
        next(stream)
    (error,) = backend.generate_many([ask], sampling)
    assert isinstance(error, AnswerError)
    assert backend.notices == (REASONING_LEFT_OUT,)
    assert backend._answer(Generation("<think>hm</think>\nBlue.", 1, 6)) == Generation("Blue.", 1, 6)


def test_an_answer_that_ends_at_once_is_an_error_of_its_own(backend):
    """One of many: the others are answered."""
    prompt = backend._template.encode(CONVERSATIONS[1])
    backend._stops |= {tokens(backend, prompt, 1)[0]}
    with pytest.raises(AnswerError, match="ended its answer without a word"):
        backend.generate(CONVERSATIONS[1], PENALISED)
    found = backend.generate_many(CONVERSATIONS, PENALISED)
    assert isinstance(found[1], AnswerError)
    assert any(not isinstance(each, AnswerError) for each in found)


# ---- where an answer ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["I see it well.", "龘你好世界 in it", "naïve 😀 ok", "Prices: $5 < 10, `a[i]` too"],
)
def test_a_text_is_streamed_as_it_is(backend, text):
    backend = writing(text, backend)
    pieces, generation = consume(backend.stream((Message("user", "?"),), Sampling(60, 0, 1.0)))
    assert "".join(pieces) == generation.text == text
    assert generation.complete
    assert not any("\ufffd" in piece for piece in pieces)
    assert generation.answer_tokens == len(backend.tokenizer.encode(text, add_special_tokens=False))


def test_an_answer_ends_where_another_turn_begins(tmp_path, folder):
    changed = shutil.copytree(folder, tmp_path / "changed")
    template = ZEPHYR_TEMPLATE.replace("<|user|>", "@@ASKED:").replace("<|assistant|>", "##TOLD:")
    (changed / "chat_template.jinja").write_text(template)
    backend = writing("It is blue. @@ASKED: more", exact(changed), end=False)
    pieces, generation = consume(backend.stream((Message("user", "?"),), Sampling(60, 0, 1.0)))
    assert generation.text == "".join(pieces) == "It is blue. "
    assert generation.complete
    together = backend.generate_many([(Message("user", "?"),)] * 3, Sampling(60, 0, 1.0))
    assert [each.text for each in together] == ["It is blue. "] * 3


def test_a_cut_answer_says_so(backend):
    backend = writing("One two three four five", backend)
    generation = backend.generate((Message("user", "?"),), Sampling(3, 0, 1.0))
    assert (generation.text, generation.complete, generation.answer_tokens) == ("One two three", False, 3)
    assert backend.generate((Message("user", "?"),), Sampling(6, 0, 1.0)).complete


def test_stop_tokens_are_those_of_every_file(tmp_path, folder):
    changed = shutil.copytree(folder, tmp_path / "changed")
    (changed / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 77]}))
    assert exact(changed)._stops >= {2, 77}


PIECES = st.lists(st.sampled_from(["a", " b", "<", "|", "us", "er", "|>", "<|user|>", "<|us", "é", "你", "�", "\n"]))


def draft(tokens, markers, max_tokens=1000):
    """A draft over words as tokens; token 0 stops, token 1 is the anchor."""
    words = ["", "x", *tokens]
    made = Draft(
        lambda ids: "".join(words[token] for token in ids), anchor=1, stops={0}, markers=markers, max_tokens=max_tokens
    )
    given = [made.add(token) for token in range(2, len(words)) if not made.done]
    if not made.done:
        given.append(made.add(0))
    return made, given


@given(PIECES)
def test_a_draft_is_its_pieces_up_to_the_first_marker(tokens):
    made, given_out = draft(tokens, ["<|user|>", "<|system|>"])
    assert "".join(given_out) == made.text == "".join(tokens).split("<|user|>")[0]
    assert made.complete


@given(PIECES, st.integers(1, 5))
def test_a_draft_has_no_more_tokens_than_allowed(tokens, allowed):
    made, given_out = draft(tokens, ["<|user|>"], allowed)
    assert made.tokens <= allowed
    assert "".join(given_out) == made.text == "".join(tokens[:allowed]).split("<|user|>")[0]
    assert made.complete == (len(tokens) < allowed or "<|user|>" in "".join(tokens[:allowed]))


@given(st.lists(st.binary(min_size=1, max_size=3)))
def test_a_draft_gives_no_half_characters(chunks):
    """Byte-pair tokens may end within a character; whatever they are, nothing is lost."""
    words = [b"", b"x", *chunks]
    made = Draft(
        lambda ids: b"".join(words[token] for token in ids).decode("utf-8", "replace"),
        anchor=1, stops={0}, markers=["<|user|>"], max_tokens=1000,
    )  # fmt: skip
    given_out = [made.add(token) for token in range(2, len(words))] + [made.add(0)]
    assert "".join(given_out) == made.text
    whole = b"".join(chunks)
    if whole.decode("utf-8", "ignore").encode() == whole and b"\xef\xbf\xbd" not in whole and b"<|user|>" not in whole:
        assert made.text == whole.decode()


def test_a_draft_keeps_spaces_behind_the_first_word(backend):
    """Zephyr's decoder drops the space before a text; between the tokens of one it must stay."""
    text = "Yes 龘龘 it is, 你好 — and\n  so on"
    made = backend._draft(Sampling(1000))
    pieces = [made.add(token) for token in backend.tokenizer.encode(text, add_special_tokens=False)] + [made.add(2)]
    assert "".join(pieces) == text


# ---- too little memory -----------------------------------------------------------------------------------------------


def test_what_was_written_before_memory_ran_out_is_not_written_again(backend, alone):
    """A model that finds memory for two rows only, once the first answers are there."""
    rows_seen = []

    def refuse(_model, _arguments, options):
        rows_seen.append(len(options["input_ids"]))
        if rows_seen[-1] > 2 and len(rows_seen) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    done = []
    with backend.weights().register_forward_pre_hook(refuse, with_kwargs=True):
        together = backend.generate_many(CONVERSATIONS, GREEDY, report=done.append)
    assert [each.text for each in together] == [alone(messages, GREEDY).text for messages in CONVERSATIONS]
    assert backend.notices == ("out of memory with 5 prompts together; went on with 2",)
    assert done == [1, 2, 3, 4, 5]


def test_the_cpu_says_it_in_words():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
