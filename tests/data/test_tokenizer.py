"""A tokenizer folder means the same to this project and to everybody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from innovator.data.sources import FilesSource
from innovator.data.tokenizer import END_OF_TEXT, FolderTokenizer, Tokenizer, TokenizerSpec, TrainTokenizer

TEXTS = ["the force on the mass", "the mass of 1234 atoms", "force, force and the atoms' mass"] * 5
STRANGE = "na\u00efve \u03c0 = 3.14159 \U0001f52d\n\tend"


def write_corpus(folder: Path) -> FilesSource:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "corpus.jsonl").write_text(lines, encoding="utf-8")
    return FilesSource(path=str(folder / "corpus.jsonl"))


def train(folder: Path, vocab_size: int = 270) -> Path:
    out = folder / "tokenizer"
    out.mkdir(parents=True)
    spec = TokenizerSpec(
        tokenizer=TrainTokenizer(vocab_size=vocab_size, corpora=("c",)),
        sources=(write_corpus(folder),),
        fingerprints=("f",),
    )
    spec.run(out, {})
    return out


def test_the_same_texts_train_the_same_tokenizer(tmp_path: Path) -> None:
    one, two = (Tokenizer.open(train(tmp_path / name)) for name in ("one", "two"))
    assert one.digest == two.digest and one.vocab_size == 270


def test_any_text_comes_back_from_its_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(train(tmp_path))
    texts = [*TEXTS, STRANGE, f"a text may say {END_OF_TEXT} too"]
    encoded = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert all(tokenizer.eos_id not in ids for ids in encoded)


def test_digits_are_tokens_of_their_own(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(train(tmp_path))
    (ids,) = tokenizer.encode_batch(["1234"])
    assert [tokenizer.decode([token]) for token in ids] == ["1", "2", "3", "4"]


def test_transformers_reads_the_folder_and_gives_the_same_ids(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = train(tmp_path)
    ours, theirs = Tokenizer.open(folder), AutoTokenizer.from_pretrained(str(folder))
    assert theirs.encode(STRANGE, add_special_tokens=False) == ours.encode_batch([STRANGE])[0]
    assert theirs.eos_token_id == ours.eos_id and len(theirs) == ours.vocab_size


def test_a_folder_tokenizer_is_copied_as_it_is(tmp_path: Path) -> None:
    folder, out = train(tmp_path), tmp_path / "copy"
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights are not the tokenizer's")
    out.mkdir()
    spec = TokenizerSpec(tokenizer=FolderTokenizer(path=str(folder)), sources=(), fingerprints=())
    spec.run(out, {})
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {file.name for file in out.iterdir()} == names
    assert Tokenizer.open(out).digest == Tokenizer.open(folder).digest


@pytest.mark.parametrize("as_object", [False, True])
def test_documents_begin_with_bos_where_the_folder_has_one(tmp_path: Path, as_object: bool) -> None:
    folder = train(tmp_path)
    assert Tokenizer.open(folder).prefix_id == Tokenizer.open(folder).eos_id
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["bos_token"] = {"content": "the"} if as_object else "the"
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.open(folder)
    assert tokenizer.prefix_id == tokenizer.backend.token_to_id("the") != tokenizer.eos_id


def test_a_folder_without_a_fast_tokenizer_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no tokenizer.json; .*use_fast=True\).save_pretrained"):
        FolderTokenizer(path=str(tmp_path)).check()


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = train(tmp_path)
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="names no eos_token"):
        Tokenizer.open(folder)


def test_a_vocabulary_holds_at_least_every_byte() -> None:
    with pytest.raises(ValueError, match="must exceed the 256 bytes"):
        TrainTokenizer(vocab_size=256, corpora=("c",))
