"""Ingest speed: the product beside the usual demo pipeline; and what a second ingest of the same folder costs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from app.config import load_config, process_environment
from app.pipeline import Pipeline
from bench.data import data_folder
from bench.table import Table
from ingest.records import IngestReport, Progress
from retrieval.encoder import BUNDLED_NAME, load_encoder, model_folder

_FILES = 80


def run() -> Table:
    """Read, split, encode and save 80 files of the transformers documentation, models loaded beforehand for both."""
    root = data_folder("corpora", "hf_docs", "huggingface", "transformers")
    every = sorted(root.rglob("*.md*"))
    files = every[:: max(1, len(every) // _FILES)][:_FILES]
    with TemporaryDirectory() as work:
        folder = Path(work) / "documents"
        for number, path in enumerate(files):
            target = folder / f"{number:03d}-{path.name}"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
        demo_seconds, demo_chunks = _demo(sorted(folder.iterdir()), Path(work) / "demo.faiss")
        first, again, token_bytes = _ours(folder, Path(work) / "index")
    return Table(
        f"Ingesting {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.2f} MB",
        ("pipeline", "seconds", "chunks", "tokens", "ratio"),
        [
            (
                "demo: LangChain splitter, sentence-transformers fp32, FAISS flat",
                f"{demo_seconds:.1f}",
                f"{demo_chunks}",
                "",
                "1.0x",
            ),
            (
                "ours: rag ingest",
                f"{first.seconds:.1f}",
                f"{first.chunks}",
                f"{first.tokens}",
                f"{demo_seconds / first.seconds:.1f}x as fast",
            ),
            (
                "ours, the same folder again",
                f"{again.seconds:.3f}",
                "0 new",
                "",
                f"{100 * again.seconds / first.seconds:.2f}% of the first time",
            ),
        ],
        f"Models loaded before the clock starts, for both. Ours also stores texts, vectors and token vectors: "
        f"{token_bytes} bytes of token codes a chunk on average.",
    )


def _demo(files: Sequence[Path], target: Path) -> tuple[float, int]:
    import faiss
    from langchain_text_splitters import RecursiveCharacterTextSplitter
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    folder = str(model_folder(BUNDLED_NAME))
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    model.max_seq_length = 512
    model.encode(["warm up"])
    started = time.perf_counter()
    splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        chunk_size=510,  # its lengths leave out the two special tokens
        chunk_overlap=51,
        add_start_index=True,
    )
    texts = [path.read_text(encoding="utf-8") for path in files]
    pieces = [piece.page_content for piece in splitter.create_documents(texts)]
    vectors = model.encode(pieces, normalize_embeddings=True, batch_size=32)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(target))
    return time.perf_counter() - started, len(pieces)


def _ours(folder: Path, index: Path) -> tuple[IngestReport, IngestReport, object]:
    config = load_config({"index": str(index), "profile": "embedded"}, process_environment(), Path.cwd())
    list(load_encoder(BUNDLED_NAME, cache=config.cache).encode(["converted and warm"]))
    pipeline = Pipeline(config)
    pipeline.embed(["loaded"], pooling=config.pooling, tokens=False)
    first = pipeline.ingest([folder], report=_silent)
    again = pipeline.ingest([folder], report=_silent)
    token_bytes = pipeline.info()["token_bytes_per_chunk"]
    pipeline.close()
    return first, again, token_bytes


def _silent(_: Progress) -> None:
    return
