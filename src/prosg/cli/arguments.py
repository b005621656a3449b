"""Arguments that several commands have: the model and how to load it, its memory, the prompt, sampling, kinds."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import Any

from prosg.cli.parser import Parser, path_text
from prosg.utils.spelling import check_known

__all__ = [
    "MEMORIES",
    "add_kinds",
    "add_memory",
    "add_model",
    "add_one_prompt",
    "add_overwrite",
    "add_prompt",
    "add_prompt_file",
    "add_sampling",
    "add_sliding_window",
    "add_state",
    "add_tau",
    "add_template",
    "add_window",
    "checked_kinds",
]

MEMORIES = ("none", "anchor", "update", "both", "auto")
"""`prosg.core.encoded.MEMORIES`, which takes PyTorch's seconds to import."""


def add_model(parser: Parser) -> None:
    """Adds the model, and how to load it."""
    parser.add_argument(
        "model",
        type=path_text,
        help="a backbone (.pth or .st file, or folder), an adapter folder, a training's output folder, owner/name or "
        "owner/name/FILE on the Hugging Face hub, or: demo",
    )
    parser.add_argument("--base", type=path_text, help="an adapter's backbone, where it has moved")
    parser.add_argument(
        "--tokenizer",
        type=path_text,
        help="world, a tokenizer.json, an RWKV vocabulary, or a folder with one; by default what lies beside the "
        "weights, else world for a vocabulary of 65536",
    )
    parser.add_list("--end-token", int, default=[], help="ids that end an answer; by default what its files say")
    parser.add_argument(
        "--begin-token", default="", help="id that stands before every prompt, or none; by default as its files say"
    )
    parser.add_argument("--dtype", help="fp32, bf16, fp16 or fp64; the file's own by default")
    parser.add_argument(
        "--quantize",
        choices=("none", "int8"),
        default="none",
        help="int8: keep the backbone's matrices in 8 bits, which is faster for one or few prompts on a CPU",
    )
    add_sliding_window(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: cuda where there is one")
    parser.add_argument("--kernel", default="auto", help="what runs the recurrence; auto picks the fastest")


def add_sliding_window(parser: Parser) -> None:
    """Adds --sliding-window."""
    parser.add_argument(
        "--sliding-window",
        type=int,
        default=0,
        help="tokens that attention sees in every layer of a Llama-like model, whose memory is then bounded; by "
        "default as its files say",
    )


def add_template(parser: Parser, more: str = "; a prompt is the user's turn") -> None:
    """Adds --template."""
    parser.add_argument(
        "--template",
        default="",
        help="how prompts and conversations are written: none, world, pile, raven, or model: as its files say; by "
        "default as it was trained, else as its files say, else world for World's tokenizer" + more,
    )


def add_state(parser: Parser) -> None:
    """Adds --state."""
    parser.add_argument(
        "--state",
        type=path_text,
        help="a learned initial state to begin prompts from: a .pth, or the output of train state",
    )


def add_memory(parser: Parser) -> None:
    """Adds --memory and --tau."""
    parser.add_argument(
        "--memory",
        choices=MEMORIES,
        help="what holds the prompt beside the recurrent state: none; anchor, which pulls the state back to the "
        "prompt's and needs no training; update, a module's; both; or auto, the update of a prompt that the module "
        "knows and the anchor of another; by default what the model was trained for",
    )
    parser.add_argument("--no-update", dest="memory", action="store_const", const="none", help=argparse.SUPPRESS)
    add_tau(parser)


def add_tau(parser: Parser) -> None:
    """Adds --tau and --anchor."""
    parser.add_argument(
        "--anchor", type=path_text, help="learned windows of an anchor: a file, or the output of train anchor"
    )
    parser.add_argument(
        "--tau", type=float, help="window of the anchor, tokens: what was written longer ago than that fades sooner"
    )


def add_sampling(parser: Parser, max_tokens: int = 256, top_p: float = 1.0) -> None:
    """Adds how long an answer may be, and how its tokens are chosen."""
    parser.add_argument("--max-tokens", type=int, default=max_tokens, help="longest answer")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens; 0: all")
    parser.add_argument("--top-p", type=float, default=top_p, help="draw from the likeliest that hold this probability")


def add_window(parser: Parser) -> None:
    """Adds --window."""
    parser.add_argument("--window", type=int, help="show the module the prompt in windows of this many tokens")


def add_kinds(parser: Parser) -> None:
    """Adds --kinds."""
    from prosg.data.synthetic import DEMO_KINDS, KINDS, NATURAL_KINDS

    parser.add_list(
        "--kinds",
        help=f"kinds of instruction, of {', '.join(KINDS)}; natural stands for {', '.join(NATURAL_KINDS)} "
        f"(default: {','.join(DEMO_KINDS)})",
    )


def checked_kinds(options: Namespace) -> list[str]:
    """Returns --kinds, of none the demo's. ValueError for a kind, or a --split, that there is not."""
    from prosg.data.synthetic import SPLITS, check_kinds

    check_known("--split", [options.split], SPLITS)
    return check_kinds("--kinds", options.kinds or ())


def add_overwrite(parser: Parser) -> None:
    """Adds --overwrite."""
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


class _Once(argparse.Action):
    """Stores an option's value, and refuses a second: the last alone would count, without a word."""

    def __call__(self, parser: Any, namespace: Namespace, values: Any, option_string: str | None = None) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "given twice; this command reads one prompt")
        setattr(namespace, self.dest, values)


def add_one_prompt(parser: Parser) -> None:
    """Adds --prompt, which is given once."""
    parser.add_argument("--prompt", action=_Once, help="the prompt; - reads it from standard input")


def add_prompt(parser: Parser, more: str = "") -> None:
    """Adds a prompt or an encoded one, and how it is read; `more` is said of --template."""
    add_one_prompt(parser)
    parser.add_argument("--encoded", type=path_text, help="a file made by: prosg encode")
    add_template(parser, "; a prompt is the user's turn" + more)
    add_window(parser)


def add_prompt_file(parser: Parser, more: str) -> None:
    """Adds --prompt-file; `more` says what comes of it."""
    parser.add_argument(
        "--prompt-file",
        type=path_text,
        help='several prompts: a jsonl file of {"prompt"} or {"messages"}, without answers or with, which are left '
        "out; " + more,
    )
