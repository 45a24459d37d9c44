"""A corpus on disk holds every document once, in the split that its text alone decides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from innovator.data.sources import FilesSource
from innovator.data.tokenizer import Tokenizer, TokenizerSpec, TrainTokenizer
from innovator.data.tokens import SPLITS, TokenFile, TokensSpec

TEXTS = [f"Measurement {n}: the \u00e9nergy is {n * n} joule." for n in range(60)]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    source = write_corpus(folder / "corpus.jsonl", TEXTS)
    tokenizer = TrainTokenizer(vocab_size=300, corpora=("c",))
    TokenizerSpec(tokenizer=tokenizer, sources=(source,), fingerprints=("",)).run(folder, {})
    return folder


def write_corpus(path: Path, texts: list[str]) -> FilesSource:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return FilesSource(path=str(path), on_bad_line="set-aside")


def tokenized(folder: Path, texts: list[str], tokenizer_folder: Path) -> Path:
    out = folder / "tokens"
    out.mkdir(parents=True)
    source = write_corpus(folder / "corpus.jsonl", texts)
    spec = TokensSpec(source=source, source_fingerprint=source.fingerprint(), validation=0.2, test=0.2)
    spec.run(out, {"tokenizer": tokenizer_folder})
    return out


def texts_of(out: Path, split: str, tokenizer: Tokenizer) -> list[str]:
    file = TokenFile.open(out, split)
    documents = [file.tokens[a:b].tolist() for a, b in zip(file.offsets, file.offsets[1:], strict=False)]
    assert all(ids[0] == tokenizer.prefix_id and ids[-1] == tokenizer.eos_id for ids in documents)
    return [tokenizer.decode(ids[1:-1]) for ids in documents]


def test_every_document_is_stored_once_between_a_prefix_and_an_end(tmp_path: Path, tokenizer_folder: Path) -> None:
    out, tokenizer = tokenized(tmp_path, TEXTS, tokenizer_folder), Tokenizer.open(tokenizer_folder)
    stored = [text for split in SPLITS for text in texts_of(out, split, tokenizer)]
    assert sorted(stored) == sorted(TEXTS)
    for split in SPLITS:
        n_bytes = [len(text.encode()) for text in texts_of(out, split, tokenizer)]
        assert TokenFile.open(out, split).n_bytes.tolist() == n_bytes


def test_the_order_and_company_of_documents_do_not_move_them(tmp_path: Path, tokenizer_folder: Path) -> None:
    tokenizer = Tokenizer.open(tokenizer_folder)
    one = tokenized(tmp_path / "one", TEXTS, tokenizer_folder)
    two = tokenized(tmp_path / "two", ["A newcomer.", *reversed(TEXTS)], tokenizer_folder)
    for split in SPLITS:
        assert set(texts_of(one, split, tokenizer)) <= set(texts_of(two, split, tokenizer))


def test_equal_texts_are_never_on_both_sides_of_a_split(tmp_path: Path, tokenizer_folder: Path) -> None:
    out, tokenizer = tokenized(tmp_path, TEXTS * 2, tokenizer_folder), Tokenizer.open(tokenizer_folder)
    train, validation, test = (set(texts_of(out, split, tokenizer)) for split in SPLITS)
    assert not train & validation and not train & test and not validation & test


def test_the_manifest_counts_what_the_files_hold(tmp_path: Path, tokenizer_folder: Path) -> None:
    out = tokenized(tmp_path, TEXTS, tokenizer_folder)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["tokenizer"] == Tokenizer.open(tokenizer_folder).digest and manifest["rejected"] == 0
    for split in SPLITS:
        file = TokenFile.open(out, split)
        counts = {"documents": file.n_documents, "tokens": len(file.tokens), "bytes": int(file.n_bytes.sum())}
        assert manifest["splits"][split] == counts
    assert not list(out.glob("*.partial")) and file.tokens.dtype == np.uint16


def test_set_aside_lines_are_counted_in_the_manifest(tmp_path: Path, tokenizer_folder: Path) -> None:
    source = write_corpus(tmp_path / "corpus.jsonl", TEXTS)
    with Path(source.path).open("a", encoding="utf-8") as stream:
        stream.write("broken\n{}\n")
    spec = TokensSpec(source=source, source_fingerprint="f", validation=0.2, test=0.2)
    spec.run(tmp_path, {"tokenizer": tokenizer_folder})
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["rejected"] == 2
    assert len((tmp_path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [([], "the corpus holds no documents"), (TEXTS[:1], "of 1 documents none fell into the .* split")],
)
def test_a_corpus_that_leaves_a_split_empty_is_refused(
    tmp_path: Path, tokenizer_folder: Path, texts: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        tokenized(tmp_path, texts, tokenizer_folder)
    assert not (tmp_path / "tokens" / "manifest.json").exists()


def test_a_corpus_may_do_without_validation(tmp_path: Path, tokenizer_folder: Path) -> None:
    source = write_corpus(tmp_path / "corpus.jsonl", TEXTS)
    spec = TokensSpec(source=source, source_fingerprint="f", validation=0.0, test=0.2)
    spec.run(tmp_path, {"tokenizer": tokenizer_folder})
    assert TokenFile.open(tmp_path, "train").n_documents + TokenFile.open(tmp_path, "test").n_documents == 60
    with pytest.raises(ValueError, match="holds no validation documents"):
        TokenFile.open(tmp_path, "validation")


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.5), (0.1, 0.0)])
def test_shares_leave_something_for_training_and_for_the_test(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="are shares of the documents"):
        TokensSpec(source=FilesSource(path="x"), source_fingerprint="", validation=shares[0], test=shares[1])
