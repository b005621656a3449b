"""The rows of a training: read from their files, encoded, and the template that they are written in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from prosg.data.binidx import binidx_files, read_documents
from prosg.data.encode import EncodedRow, encode_rows
from prosg.data.joined import join_rows, sample_rows
from prosg.data.row import read_rows
from prosg.data.templates import NONE, OwnTemplate
from prosg.model.prosg import ProSG
from prosg.tokenizers.base import Tokenizer
from prosg.training.config import Phase, TrainConfig
from prosg.utils import distributed

__all__ = ["read_run_rows", "template_used"]


def template_used(phase: Phase, rows: Sequence[EncodedRow], config: TrainConfig, model: ProSG) -> OwnTemplate:
    """The template that most rows are written in, which is the trained model's own from here on; said on stderr.

    Running text has none, and says nothing of how prompts are written.
    """
    counts = Counter(row.template for row in sample_rows(rows) if row.template and not row.open)
    if not counts:
        return model.own_template
    name = counts.most_common(1)[0][0]
    template = model.own_template.choose(name, model.tokenizer)
    usual = model.own_template.choose("", model.tokenizer).name
    if phase in ("state", "anchor") and name != usual:
        # What these leave is used with the backbone as it is, whose own template is another.
        distributed.print_once(f"template: {name}; use what is trained with --template {name}, not the model's {usual}")
    if len(counts) > 1:
        parts = ", ".join(f"{other} {count}" for other, count in counts.most_common())
        distributed.print_once(
            f"template: rows are written in several ({parts}), and the model's own is {name} from here on; one for all "
            "with --template"
        )
    elif template != NONE:
        chosen = "" if config.template else " (another with --template)"
        distributed.print_once(f"template: {name}{chosen}")
    elif usual != name and not config.template:
        distributed.print_once(
            f"template: none, rows of a prompt and an answer are written as they are (--template {usual}: as a chat)"
        )
    return model.own_template._replace(trained=template)


def read_run_rows(
    files: Sequence[str] | str, tokenizer: Tokenizer, what: str, vocab_size: int, **encoding: Any
) -> tuple[Sequence[EncodedRow], int]:
    """The files' rows, encoded by `encode_rows` or read as ids, and how many were too long, which stderr is told."""
    parts: list[Sequence[EncodedRow]] = []
    total_long = 0
    most, truncate = encoding["max_tokens"], encoding["truncate"]
    for file in [files] if isinstance(files, str) else files:
        if binidx_files(file) is not None:
            documents, too_long = read_documents(file, tokenizer, encoding["special"], vocab_size), 0
            if most is not None:
                documents, too_long = documents.limited(most, truncate)
            parts.append(documents)
        else:
            encoded, left_out = _encode_file(file, tokenizer, **encoding)
            parts.append(encoded)
            too_long = len(left_out)
        total_long += too_long
        if too_long:
            done = "cut to" if truncate else "left out, above"
            distributed.print_once(f"{file}: {too_long} {what} rows {done} {most} tokens")
    return join_rows(parts), total_long


def _encode_file(file: str, tokenizer: Tokenizer, **encoding: Any) -> tuple[list[EncodedRow], list[str]]:
    """The rows of a jsonl file, and the ids of those that are too long. ValueError names the file."""
    read = read_rows(file)
    try:
        return encode_rows(read, tokenizer, **encoding)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
