"""Small models for tests and measurements of the written reader: Zephyr's tokenizer and template, random weights."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# As HuggingFaceH4/zephyr-7b-beta publishes it (tokenizer_config.json).
ZEPHYR_TEMPLATE = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)

ZEPHYR_SHAPE: dict[str, Any] = {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32_768, "sliding_window": 4096,
    "rope_theta": 10_000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
SMALL_SHAPE: dict[str, Any] = {
    **ZEPHYR_SHAPE,
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def save_zephyr_tokenizer(folder: Path, *, template: str | None = ZEPHYR_TEMPLATE) -> Path:
    """Zephyr's tokenizer, from the SentencePiece model that the package mistral-common carries."""
    from transformers import LlamaTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes((files("mistral_common") / "data" / "tokenizer.model.v1").read_bytes())
    config: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "</s>", "add_bos_token": True, "add_eos_token": False, "legacy": True, "model_max_length": 32_768,
        "padding_side": "left", "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    LlamaTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder


def save_small_model(folder: Path, *, seed: int = 0, template: str | None = ZEPHYR_TEMPLATE, **shape: Any) -> Path:
    """A random Mistral with Zephyr's tokenizer, as a folder that loads like the real one."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    save_zephyr_tokenizer(folder, template=template)
    torch.manual_seed(seed)
    MistralForCausalLM(MistralConfig(**{**SMALL_SHAPE, **shape})).save_pretrained(folder)
    return folder
