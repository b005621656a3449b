"""Tokenizer, special tokens and chat template in a GGUF model.

rwkv     World, and other vocabularies of RWKV's kind
gpt2     a byte-level BPE that cuts a text into words as one of llama.cpp's fixed rules does (`PRE_TOKENIZERS`)
none     any other tokenizer, or no tokenizer: the file has ids alone, and so takes and gives ids
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from prosg.checkpoints.gguf_file import GGUFFile
from prosg.data.templates import NONE, TEMPLATES
from prosg.model.prosg import ProSG
from prosg.tokenizers.json_file import JsonTokenizer
from prosg.tokenizers.world import WorldTokenizer

__all__ = ["add_vocabulary"]

NORMAL, CONTROL, UNUSED = 1, 3, 5
"""llama.cpp's kinds of tokens."""
NEWLINE = "\u010a"
"""A line break, as byte-level BPE writes it."""
WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
LINES = {"type": "Split", "pattern": {"String": "\n"}, "behavior": "Isolated", "invert": False}
PRE_TOKENIZERS: tuple[tuple[list[dict[str, Any]], str], ...] = (
    ([WORDS], "gpt-2"),
    ([DIGITS, WORDS], "smollm"),
    ([LINES, WORDS], "gpt-2"),  # cutting at line breaks makes no difference where no token holds one and more
    ([LINES, DIGITS, WORDS], "smollm"),
)
"""How a tokenizer.json cuts a text into words, and llama.cpp's name of the rule that cuts it so."""


class BytePairs(NamedTuple):
    """A byte-level BPE as llama.cpp has it."""

    tokens: dict[int, str]
    """by id, spelled as in tokenizer.json"""
    control: set[int]
    """ids of the special tokens"""
    merges: list[str]
    """pairs, the two apart by a space"""
    rule: str
    """llama.cpp's name of how it cuts a text into words"""


def add_vocabulary(file: GGUFFile, model: ProSG, vocab_size: int) -> str:
    """Adds a model's tokenizer, padded to the size of its vocabulary, its special tokens and its chat template.

    Returns:
        What became of them, in words.
    """
    tokenizer, writer = model.tokenizer, file.writer
    writer.add_vocab_size(vocab_size)
    bpe = _bpe(tokenizer) if isinstance(tokenizer, JsonTokenizer) else None
    if isinstance(tokenizer, WorldTokenizer):
        kind, tokens = "rwkv", {0: tokenizer.decode([0])}
        tokens |= {number: repr(token)[2:-1] for number, token in tokenizer.tokens.items()}
        control = {0}
    elif bpe is not None:
        kind, tokens, control = "gpt2", bpe.tokens, bpe.control
        writer.add_tokenizer_pre(bpe.rule)
        writer.add_token_merges(bpe.merges)
    else:
        writer.add_tokenizer_model("none")
        return "without its tokenizer, which llama.cpp does not have: it takes and gives token ids"
    writer.add_tokenizer_model(kind)
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(vocab_size)])
    kinds = [CONTROL if n in control else NORMAL if n in tokens else UNUSED for n in range(vocab_size)]
    writer.add_token_types(kinds)
    _add_special(file, model)
    return f"tokenizer {kind}"


def _add_special(file: GGUFFile, model: ProSG) -> None:
    writer, special = file.writer, model.special
    writer.add_eos_token_id(special.end[0])
    writer.add_bos_token_id(special.end[0] if special.begin is None else special.begin)
    writer.add_add_bos_token(special.begin is not None)
    template = model.own_template.choose("", model.tokenizer)
    if template == NONE:
        return
    writer.add_chat_template(template.jinja())
    assert model.tokenizer is not None
    blank_line = model.tokenizer.encode("\n\n")
    if len(special.end) > 1:
        writer.add_eot_token_id(special.end[1])
    elif template in TEMPLATES.values() and len(blank_line) == 1:
        writer.add_eot_token_id(blank_line[0])  # it ends a turn under these templates


def _bpe(tokenizer: JsonTokenizer) -> BytePairs | None:
    """Returns a tokenizer that llama.cpp has; None for another."""
    described = tokenizer.described
    model, added = described["model"], described["added_tokens"]
    unusual = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    if model["type"] != "BPE" or described["normalizer"] is not None or any(model.get(option) for option in unusual):
        return None
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    words = _cut(described["pre_tokenizer"])
    if words[:1] == [LINES] and any(NEWLINE in pair for pair in merges):
        return None
    rule = next((rule for steps, rule in PRE_TOKENIZERS if steps == words), None)
    if rule is None:
        return None
    tokens = {number: token for token, number in model["vocab"].items()}
    tokens |= {token["id"]: token["content"] for token in added}
    return BytePairs(tokens, {token["id"] for token in added if token["special"]}, merges, rule)


def _cut(pre_tokenizer: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer, without the options that change no ids."""
    if pre_tokenizer is None:
        return []
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    return [{name: value for name, value in step.items() if name != "trim_offsets"} for step in steps]
