"""A folder's tokenizer as llama.cpp reads it: tokens, what kind each is, and how a text is cut and merged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gguf import GGUFWriter, SpecialVocab, TokenType
from pydantic import TypeAdapter, ValidationError

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
CASELESS_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The rules by which a text is cut before it is merged, and what llama.cpp calls them.
PRE_TOKENIZERS = {
    ("words",): "gpt-2",
    ("digits", "words"): "smollm",
    (CASELESS_WORDS % "", "bytes"): "qwen2",
    (CASELESS_WORDS % "{1,3}", "bytes"): "llama-bpe",
}


def write_tokenizer(writer: GGUFWriter, folder: Path, vocab_size: int, pre_tokenizer: str | None) -> None:
    """Write a folder's tokenizer, padded to `vocab_size`; ValueError if llama.cpp has none that cuts texts alike."""
    path = folder / "tokenizer.json"
    file = _read(path)
    tokens = _tokens(file, vocab_size, path)
    special = SpecialVocab(folder, load_merges=not file.model.byte_fallback, n_vocab=vocab_size)
    if file.model.byte_fallback:
        _check_spaces(file, path)
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(_scores(file.model, tokens))
        writer.add_add_space_prefix(file.begins_with_space)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer or _pre_tokenizer(file, path))
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    _complete(special, folder)
    special.add_to_gguf(writer, quiet=True)


@dataclass(frozen=True)
class Step:
    """One step of a normalizer or pre-tokenizer; the fields are those of all kinds that we tell apart."""

    type: str
    normalizers: tuple[Step, ...] = ()
    pretokenizers: tuple[Step, ...] = ()
    pattern: dict[str, str] = field(default_factory=dict)
    behavior: str = ""
    invert: bool = False
    individual_digits: bool = False
    add_prefix_space: bool = False
    use_regex: bool = True
    prepend_scheme: str = ""

    def single(self) -> Iterator[Step]:
        """The steps of a sequence, or this one."""
        if self.type != "Sequence":
            yield self
        for step in (*self.normalizers, *self.pretokenizers):
            yield from step.single()

    @property
    def rule(self) -> str:
        """How it cuts a text, as PRE_TOKENIZERS writes it."""
        if self.type == "ByteLevel" and not self.add_prefix_space:
            return "words" if self.use_regex else "bytes"
        if self.type == "Digits" and self.individual_digits:
            return "digits"
        if self.type == "Split" and self.behavior == "Isolated" and not self.invert:
            return self.pattern.get("Regex", self.type)
        return self.type


@dataclass(frozen=True)
class AddedToken:
    """A token that no merge makes."""

    id: int
    content: str
    special: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """Byte pair encoding: over bytes, or over characters with bytes for those it does not know."""

    type: Literal["BPE"] = "BPE"
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    byte_fallback: bool = False
    unk_token: str | None = None


@dataclass(frozen=True)
class TokenizerFile:
    """What we ask of a `tokenizer.json`."""

    model: Model
    added_tokens: tuple[AddedToken, ...] = ()
    normalizer: Step | None = None
    pre_tokenizer: Step | None = None

    @property
    def steps(self) -> list[Step]:
        """How a text is rewritten and cut before it is merged."""
        both = (self.normalizer, self.pre_tokenizer)
        return [step for part in both if part is not None for step in part.single()]

    @property
    def begins_with_space(self) -> bool:
        """Whether a text is read as if a space stood before it; llama.cpp does so even where one stands."""
        metaspaces = [step for step in self.steps if step.type == "Metaspace"]
        return any(step.type == "Prepend" for step in self.steps) or any(
            step.prepend_scheme in ("always", "first") or step.add_prefix_space for step in metaspaces
        )


def _read(path: Path) -> TokenizerFile:
    if not path.is_file():
        raise ValueError(f"{path.parent}: no tokenizer.json, without which llama.cpp cannot read a text")
    try:
        return TypeAdapter(TokenizerFile).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _tokens(file: TokenizerFile, vocab_size: int, path: Path) -> list[tuple[str, TokenType]]:
    """Text and kind of each token; what the model's vocabulary has beyond the tokenizer's is unused."""
    kinds = {(number, text): _kind(text, file.model) for text, number in file.model.vocab.items()}
    for added in file.added_tokens:
        kinds[added.id, added.content] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    tokens = [(f"[unused {number}]", TokenType.UNUSED) for number in range(vocab_size)]
    for (number, text), kind in kinds.items():
        if number >= vocab_size:
            raise ValueError(f"{path}: token {text!r} is number {number}, but the model knows {vocab_size} tokens")
        tokens[number] = (text, kind)
    return tokens


def _kind(text: str, model: Model) -> TokenType:
    if not model.byte_fallback:
        return TokenType.NORMAL
    if text == model.unk_token:
        return TokenType.UNKNOWN
    return TokenType.BYTE if BYTE.fullmatch(text) else TokenType.NORMAL


def _scores(model: Model, tokens: list[tuple[str, TokenType]]) -> list[float]:
    """llama.cpp merges what makes the token of highest score: the earlier a token's merge, the higher its score."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.merges)
    rank = {"".join(pair): number for number, pair in enumerate(pairs)}
    return [-float(rank.get(text, len(model.merges))) for text, _ in tokens]


def _check_spaces(file: TokenizerFile, path: Path) -> None:
    """llama.cpp writes spaces as a sign of their own and does nothing else to a text before it merges."""
    steps = {step.type for step in file.steps}
    if not steps & {"Replace", "Metaspace"} or steps - {"Prepend", "Replace", "Metaspace"}:
        raise ValueError(
            f"{path}: normalizer and pre_tokenizer are {sorted(steps)}; with byte_fallback, llama.cpp does what "
            "Prepend and Replace do, or Metaspace"
        )


def _pre_tokenizer(file: TokenizerFile, path: Path) -> str:
    """llama.cpp reads texts as they stand: of all normalizers only NFC, which changes few of them, is let pass."""
    rules = tuple(step.rule for step in file.steps if step.type != "NFC")
    if rules not in PRE_TOKENIZERS:
        raise ValueError(
            f"{path}: normalizer and pre_tokenizer cut a text by {list(rules)}, which is none of "
            f"{', '.join(PRE_TOKENIZERS.values())}; if llama.cpp knows it by another name, give that as pre_tokenizer"
        )
    return PRE_TOKENIZERS[rules]


def _complete(special: SpecialVocab, folder: Path) -> None:
    """Say what llama.cpp would otherwise assume: numbers of other models' tokens, and marks that we do not set."""
    if "eos" not in special.special_token_ids:
        raise ValueError(f"{folder}: neither tokenizer_config.json nor config.json names a token that ends a document")
    special.special_token_ids.setdefault("bos", special.special_token_ids["eos"])
    special.add_special_token.setdefault("bos", False)
    special.add_special_token.setdefault("eos", False)
