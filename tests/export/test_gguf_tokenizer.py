"""llama.cpp cuts a text into the tokens that the folder's tokenizer cuts it into, or we say what it does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter, TokenType
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from innovator.export.gguf_tokenizer import PRE_TOKENIZERS, write_tokenizer

Json = dict[str, object]

TEXTS = (
    "a cat sat on the mat, and 3.14159 is not 22/7",
    "  two  spaces   three\ttabs\n\n\n and  \r\n lines \n",
    "It's DON'T we'VE he'll 'S a1b22 1234567",
    "\u65e5\u672c\u8a9e \u0395\u03bb\u03bb \u0440\u0443\u0441\u0441\u043a\u0438\u0439 na\u00efve cafe\u0301",
    "\U0001f642\U0001f642\U0001f3fd \u00bd \u00b2 \u0663\u0664 \u216b 12\u00b2",
    "(((!!!???... _a__b ^^ $$5.00 \u20ac3 <|endoftext|>x</s> <think>",
    " ",
    "\u00a0nbsp\u2003em trailing   ",
)
STEPS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "words": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "bytes": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    "digits": lambda: pre_tokenizers.Digits(individual_digits=True),
}
REPLACE: Json = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
PREPEND: Json = {"type": "Prepend", "prepend": "\u2581"}
METASPACE: Json = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
SPACES: dict[str, dict[str, Json | None]] = {
    "Llama 2": {"normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, "pre_tokenizer": None},
    "no space before": {"normalizer": REPLACE, "pre_tokenizer": None},
    "metaspace": {"normalizer": None, "pre_tokenizer": METASPACE},
}


def byte_level(rule: str) -> Tokenizer:
    """A tokenizer that cuts by the rule of that name in llama.cpp, learned from the texts."""
    cut = {name: steps for steps, name in PRE_TOKENIZERS.items()}[rule]
    steps = [STEPS[step]() if step in STEPS else pre_tokenizers.Split(Regex(step), "isolated") for step in cut]
    backend = Tokenizer(models.BPE(ignore_merges=rule == "llama-bpe"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.add_tokens(["<think>"])
    return backend


def sentencepiece(spaces: dict[str, Json | None]) -> Tokenizer:
    """Llama 2's kind: characters, bytes for those it does not know, a sign for spaces."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(TEXTS[:3] * 3, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    special, merged = ["<unk>", "<s>", "</s>"], ["".join(pair) for pair in learned["merges"]]
    every_word = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *learned["vocab"]]
    vocab = {word: number for number, word in enumerate(dict.fromkeys(every_word))}
    pairs = [(word[:at], word[at:]) for word in merged for at in range(1, len(word))]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content = {
        "added_tokens": [{"id": vocab[word], "content": word, "special": True, **plain} for word in special],
        **spaces,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [pair for pair in pairs if set(pair) <= vocab.keys()],
        },
    }
    return Tokenizer.from_str(json.dumps(content))


def folder_of(backend: Tokenizer, folder: Path, **config: object) -> Path:
    """A tokenizer folder."""
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write(folder: Path, vocab_size: int, pre_tokenizer: str | None = None) -> Path:
    """A file of nothing but a tokenizer."""
    file = folder / "vocabulary.gguf"
    writer = GGUFWriter(file, "glm4moe")
    write_tokenizer(writer, folder, vocab_size, pre_tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return file


def said(file: Path) -> dict[str, object]:
    """The metadata of a file."""
    return {name.removeprefix("tokenizer."): field.contents() for name, field in GGUFReader(file).fields.items()}


def read_alike(file: Path, backend: Tokenizer, texts: Sequence[str] = TEXTS) -> None:
    """Token for token, special tokens being text and being tokens, and back."""
    llama_cpp = pytest.importorskip("llama_cpp")
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for text in texts:
        for special in (True, False):
            backend.encode_special_tokens = not special
            ids = theirs.tokenize(text.encode(), add_bos=False, special=special)
            assert ids == backend.encode(text, add_special_tokens=False).ids
        assert theirs.detokenize(ids).decode().lstrip() == text.lstrip()


def test_a_tokenizer_of_ours_reads_alike(tokenizer_folder: Path, tmp_path: Path) -> None:
    backend = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    folder = folder_of(backend, tmp_path / "ours", eos_token="<|endoftext|>")
    read_alike(write(folder, 280), backend)


@pytest.mark.parametrize("rule", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_byte_level_tokenizers_read_alike(tmp_path: Path, rule: str) -> None:
    backend = byte_level(rule)
    file = write(folder_of(backend, tmp_path / "some", eos_token="<|endoftext|>"), 360)
    assert said(file)["ggml.pre"] == rule
    read_alike(file, backend)


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES)
def test_tokenizers_with_byte_fallback_read_alike(tmp_path: Path, spaces: dict[str, Json | None]) -> None:
    """llama.cpp puts a space before every text, even after a space or a special token, where Metaspace does not."""
    backend = sentencepiece(spaces)
    texts = [text.lstrip() for text in TEXTS if "</s>" not in text] if spaces["pre_tokenizer"] else TEXTS
    read_alike(write(folder_of(backend, tmp_path / "some", eos_token="</s>"), 400), backend, texts)


def test_tokens_keep_their_numbers_and_kinds(tmp_path: Path) -> None:
    backend = byte_level("gpt-2")
    fields = said(write(folder_of(backend, tmp_path / "some", eos_token="<|endoftext|>"), 360))
    words = [backend.id_to_token(number) for number in range(backend.get_vocab_size())]
    n_unused = 360 - len(words)
    assert fields["ggml.tokens"] == [*words, *(f"[unused {number}]" for number in range(len(words), 360))]
    kinds = [TokenType.CONTROL, *[TokenType.NORMAL] * (len(words) - 2), TokenType.USER_DEFINED]
    assert fields["ggml.token_type"] == [*kinds, *[TokenType.UNUSED] * n_unused]
    assert fields["ggml.model"] == "gpt2" and len(fields["ggml.merges"]) == len(words) - 258


def test_bytes_and_the_unknown_are_kinds_of_their_own(tmp_path: Path) -> None:
    backend = sentencepiece(SPACES["Llama 2"])
    fields = said(write(folder_of(backend, tmp_path / "some", bos_token="<s>", eos_token="</s>"), 400))
    assert fields["ggml.token_type"][:4] == [TokenType.CONTROL, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    assert fields["ggml.model"] == "llama" and fields["ggml.add_space_prefix"] is True
    assert (fields["ggml.bos_token_id"], fields["ggml.eos_token_id"]) == (1, 2)
    merges = json.loads(backend.to_str())["model"]["merges"]
    first, last = ("".join(merges[at]) for at in (0, -1))
    tokens, scores = fields["ggml.tokens"], fields["ggml.scores"]
    assert scores[tokens.index(first)] > scores[tokens.index(last)] > scores[tokens.index("a")]


def test_a_tokenizer_without_bos_begins_documents_with_eos(tmp_path: Path) -> None:
    """As our corpora do; llama.cpp would take token 11 for both."""
    fields = said(write(folder_of(byte_level("gpt-2"), tmp_path / "some", eos_token="<think>"), 360))
    assert fields["ggml.bos_token_id"] == fields["ggml.eos_token_id"] == fields["ggml.tokens"].index("<think>")
    assert (fields["ggml.add_bos_token"], fields["ggml.add_eos_token"]) == (False, False)


def test_special_tokens_may_be_named_by_the_model_alone(tmp_path: Path) -> None:
    folder = folder_of(byte_level("gpt-2"), tmp_path / "some", add_bos_token=True)
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 7, "eos_token_id": 9}), encoding="utf-8")
    fields = said(write(folder, 360))
    assert (fields["ggml.bos_token_id"], fields["ggml.eos_token_id"], fields["ggml.add_bos_token"]) == (7, 9, True)


def test_the_chat_template_goes_along(tmp_path: Path) -> None:
    folder = folder_of(byte_level("gpt-2"), tmp_path / "some", eos_token="<|endoftext|>")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert said(write(folder, 360))["chat_template"] == "{{ messages }}"


def test_a_rule_that_we_do_not_know_must_be_named(tmp_path: Path) -> None:
    backend = byte_level("gpt-2")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), STEPS["bytes"]()])
    folder = folder_of(backend, tmp_path / "some", eos_token="<|endoftext|>")
    with pytest.raises(ValueError, match=r"by \['Punctuation', 'bytes'\].*give that as pre_tokenizer"):
        write(folder, 360)
    assert said(write(folder, 360, "falcon"))["ggml.pre"] == "falcon"


REFUSED: dict[str, dict[str, object]] = {
    r"tokenizer.json: .* cut a text by \['Lowercase', 'words'\]": {"normalizer": {"type": "Lowercase"}},
    r"tokenizer.json: model.type: Input should be 'BPE'": {"model": {"type": "Unigram", "vocab": []}},
    r"tokenizer.json: model.vocab: Field required": {"model": {"type": "BPE", "merges": []}},
}


@pytest.mark.parametrize(("reason", "change"), REFUSED.items())
def test_what_llama_cpp_does_not_know_is_refused(tmp_path: Path, reason: str, change: dict[str, object]) -> None:
    folder = folder_of(byte_level("gpt-2"), tmp_path / "some", eos_token="<|endoftext|>")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        write(folder, 360)


def test_byte_fallback_wants_spaces_written_as_llama_cpp_does(tmp_path: Path) -> None:
    backend = sentencepiece({"normalizer": {"type": "Lowercase"}, "pre_tokenizer": METASPACE})
    with pytest.raises(ValueError, match=r"are \['Lowercase', 'Metaspace'\]; with byte_fallback"):
        write(folder_of(backend, tmp_path / "some", eos_token="</s>"), 400)


def test_a_folder_must_have_a_tokenizer_that_fits_and_ends_documents(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer.json"):
        write(tmp_path, 360)
    folder = folder_of(byte_level("gpt-2"), tmp_path / "some", eos_token="<|endoftext|>")
    with pytest.raises(ValueError, match=r"token '.*' is number \d+, but the model knows 300 tokens"):
        write(folder, 300)
    with pytest.raises(ValueError, match=r"names a token that ends a document"):
        write(folder_of(byte_level("gpt-2"), tmp_path / "endless"), 360)
