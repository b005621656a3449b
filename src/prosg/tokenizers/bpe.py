"""Training a small byte-level BPE tokenizer."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from prosg.tokenizers.base import END_OF_TEXT
from prosg.tokenizers.json_file import JsonTokenizer

__all__ = ["train_bpe"]


def train_bpe(texts: Iterable[str], vocab_size: int = 1024, *, min_frequency: int = 2) -> JsonTokenizer:
    """Trains a byte-level BPE in which every digit and every newline is a token of its own.

    Since newlines stand alone, a text cut at a newline has the ids of the whole text.

    Args:
        texts: What to train on.
        vocab_size: Number of tokens, including the 256 bytes and the end token, whose id is 0.
        min_frequency: How often a pair of tokens must occur to be merged.

    Raises:
        ValueError: for a vocab_size below 257.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size is {vocab_size}; at least 257 are needed (256 bytes and the end token)")
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(texts, trainer)
    return JsonTokenizer(inner)
