"""Shared by all tests: the bundled encoder, converted once a session, and a tiny random model for everything else."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ingest.records import IngestReport
    from retrieval.encoder import OpenVinoEncoder, SentenceTransformerEncoder

ROOT = Path(__file__).resolve().parents[1]

# No property fails because the machine is busy with something else. Elsewhere each run tries other examples; in CI the
# same ones, so that a change is judged by what it changed.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """What is imported by now stays; not looked at by every garbage collection, it saves 4% of the readers' tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for converted models that lives as long as the session."""
    return tmp_path_factory.mktemp("model-cache")


@pytest.fixture(scope="session")
def encoder(model_cache: Path) -> OpenVinoEncoder:
    """The bundled encoder as users without a GPU have it."""
    from retrieval.encoder import BUNDLED_NAME, OpenVinoEncoder, load_encoder

    loaded = load_encoder(BUNDLED_NAME, cache=model_cache)
    assert isinstance(loaded, OpenVinoEncoder)
    return loaded


@pytest.fixture(scope="session")
def torch_encoder(encoder: OpenVinoEncoder) -> SentenceTransformerEncoder:
    """The same model through sentence-transformers."""
    from retrieval.encoder import SentenceTransformerEncoder, model_folder

    return SentenceTransformerEncoder(model_folder(encoder.spec.name), encoder.spec)


@pytest.fixture(scope="session")
def zephyr_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Zephyr's tokenizer and no model."""
    from bench.small_models import save_zephyr_tokenizer

    return save_zephyr_tokenizer(tmp_path_factory.mktemp("zephyr-tokenizer"))


@pytest.fixture(scope="session")
def small_zephyr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Zephyr's tokenizer and a small random model, to be copied before it is changed.

    Its answers vary: with the usual small weights it would repeat one token.
    """
    from bench.small_models import save_small_model

    return save_small_model(tmp_path_factory.mktemp("small-zephyr") / "model", initializer_range=0.2)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices as small as those of test models only get slower on several threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def save_tiny_model() -> Callable[..., Path]:
    """Writes a random one-layer model with a word tokenizer into a folder, as its authors would publish it."""

    def save(
        folder: Path,
        *,
        model_type: str = "bert",
        modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
        pooling: dict[str, object] | None = None,
        prompts: dict[str, str] | None = None,
        seed: int = 0,
        **options: object,
    ) -> Path:
        import torch
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer
        from tokenizers.processors import TemplateProcessing
        from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = special + [chr(code) for code in range(ord("a"), ord("z") + 1)]
        words += [f"##{word}" for word in words[len(special) :]] + ["query", "passage", ":", "[", "]", "the", "cat"]
        tokenizer = Tokenizer(WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106 - a token of text
        tokenizer.normalizer = BertNormalizer()
        tokenizer.pre_tokenizer = BertPreTokenizer()
        tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        names = {f"{word[1:-1].lower()}_token": word for word in special}
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
        sizes = {
            "vocab_size": len(words), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 64, "max_position_embeddings": 48, "pad_token_id": 0,
        }  # fmt: skip
        torch.manual_seed(seed)
        AutoModel.from_config(AutoConfig.for_model(model_type, **(sizes | options))).save_pretrained(folder)
        listed = [
            {"idx": n, "name": str(n), "path": "" if kind == "Transformer" else f"{n}_{kind}",
             "type": f"sentence_transformers.models.{kind}"}
            for n, kind in enumerate(modules)
        ]  # fmt: skip
        (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
        for module in listed[1:]:
            (folder / module["path"]).mkdir()
        mode = {"pooling_mode": "mean"} if pooling is None else pooling
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, **mode}))
        if prompts is not None:
            (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
        return folder

    return save


@pytest.fixture(scope="session")
def put_in_index(encoder: OpenVinoEncoder) -> Callable[..., IngestReport]:
    """Writes texts into files (None deletes one) and brings an index up to date with their folder."""
    from ingest.build import ingest
    from ingest.indexer import Settings
    from retrieval.records import ChunkingSpec

    def put(folder: Path, index: Path, texts: dict[str, str | None], *, max_tokens: int = 512) -> IngestReport:
        for name, text in texts.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                file.unlink()
            else:
                file.write_bytes(text.encode())
        settings = Settings(
            encoder=encoder.spec,
            chunking=ChunkingSpec(max_tokens=max_tokens),
            max_file_bytes=1_000_000,
            created_at="2026-01-01T00:00:00+00:00",
            versions={},
        )
        return ingest(
            [folder], folder=index, settings=settings, make_encoder=lambda: encoder, report=lambda _: None, prune=True
        )

    return put


@pytest.fixture
def fresh_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python as a new user would: a home of its own and nothing inherited but PATH."""

    def run(*arguments: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(home), **environ},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
