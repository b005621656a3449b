"""What the parsers and runners of the commands share: errors on one line, the options of a model, loading it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from jsonargparse import ArgumentParser, Namespace

__all__ = [
    "Parser",
    "Tool",
    "check_text",
    "complain",
    "encode_prompt",
    "kinds_given",
    "load",
    "model_options",
    "prompt_text",
    "state_option",
    "template_option",
]

MODEL_HELP = (
    "a backbone (.pth file or folder), an adapter folder, a training's output folder, owner/name or owner/name/FILE on "
    "the Hugging Face hub, or: demo"
)
TOKENIZER_HELP = (
    "world, a tokenizer.json, an RWKV vocabulary, or a folder with one; by default what lies beside the weights, else "
    "world for a vocabulary of 65536"
)


def complain(message: str) -> int:
    """Say what was wrong on one line of stderr; returns the exit status. Of several processes one does for all."""
    if "LOCAL_RANK" in os.environ:
        from prosg.utils.distributed import wait_for_launcher  # PyTorch takes seconds to import

        wait_for_launcher()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


class Parser(ArgumentParser):
    """jsonargparse's, with errors on one line, in a user's words."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what was wrong and stop with status 2."""
        line = " ".join(message.split())
        if line.startswith("the following arguments are required"):
            line = re.sub(r"\b(?:\w+\.)+", "", line)  # names of commands
        for pattern, words in PLAIN_WORDS:
            line = re.sub(pattern, words, line)
        raise SystemExit(complain(f"{line} (see {self.prog.replace(' [options]', '')} --help)"))


PLAIN_WORDS = (
    (r"a typing\.Literal\[(.*?)\]", r"one of \1"),
    (r"a <class '(\w+)'>", r"\1"),
    (r'^Parser key "', r'"'),
    (r'expected "(?:\w+\.)?subcommand" to be', "expected a command,"),
)
"""What jsonargparse says, and what is meant."""


class Tool(NamedTuple):
    """A command."""

    parser: Callable[[], Parser]
    help: str
    run: Callable[[Any], int]


def model_options(parser: Parser) -> Parser:
    """Add the model, and how to load it; returns the parser."""
    parser.add_argument("model", type=str, help=MODEL_HELP)
    parser.add_argument("--base", type=str, help="an adapter's backbone, where it has moved")
    parser.add_argument("--tokenizer", type=str, help=TOKENIZER_HELP)
    parser.add_argument("--dtype", type=str, help="fp32, bf16, fp16 or fp64; the file's own by default")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, or auto: cuda where there is one")
    parser.add_argument("--kernel", type=str, default="auto", help="what runs the recurrence; auto picks the fastest")
    return parser


TEMPLATE_HELP = "how a conversation is written: none, world, pile or raven"


def template_option(parser: Parser, default: str, more: str = "") -> None:
    """Add --template."""
    parser.add_argument("--template", type=str, default=default, help=TEMPLATE_HELP + more)


def state_option(parser: Parser) -> Parser:
    """Add --state; returns the parser."""
    parser.add_argument(
        "--state", type=str, help="a learned initial state to begin prompts from: a .pth, or the output of train state"
    )
    return parser


def load(options: Namespace, asks_tokenizer: bool = True) -> Any:
    """The model of `model_options` and `state_option`; ValueError where it has no tokenizer but needs one."""
    from prosg.checkpoints.initial_state import load_initial
    from prosg.checkpoints.load import load_model, require_tokenizer
    from prosg.utils.device import resolve_device, parse_dtype

    device = resolve_device(options.device)
    model = load_model(
        options.model,
        base=options.base,
        tokenizer=options.tokenizer,
        dtype=parse_dtype(options.dtype),
        device=device,
        kernel=options.kernel,
    )
    if options.get("state") is not None:
        model.initial = load_initial(options.state, model.backbone).to(device)
    if asks_tokenizer:
        require_tokenizer(model, options.model)
    return model


def encode_prompt(options: Namespace, model: Any) -> Any:
    """What --prompt, --template and --window mean; ValueError as `prompt_text`."""
    return model.encode(prompt_text(options.prompt, options.template), window=options.window)


def prompt_text(prompt: str, template: str) -> str:
    """A prompt as its model is to see it. ValueError for an empty one, one that is no text, and an unknown template."""
    if not prompt:
        raise ValueError("--prompt is empty; a prompt needs at least one character")
    from prosg.data.templates import Turn, frame, known_template

    check_text("--prompt", prompt)
    return frame([Turn("user", prompt)], known_template(template) or "none")


def check_text(option: str, text: str) -> None:
    """ValueError for bytes that are no characters: Python lets a command line's pass as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{option} is not UTF-8 text") from None


def kinds_given(given: list[str] | None) -> list[str]:
    """Names apart by commas or spaces."""
    return [kind for part in given or [] for kind in part.split(",") if kind]
