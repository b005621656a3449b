"""What the commands share: how the model is loaded and the prompt is read, and what is checked before."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prosg.utils.outside import check_text
from prosg.utils.paths import same_file
from prosg.utils.replaceable import ReplaceableError, check_replaceable

if TYPE_CHECKING:
    from prosg.core.encoded import EncodedPrompt, Memory
    from prosg.data.templates import FramedPrompt
    from prosg.model.prosg import ProSG

__all__ = [
    "check_anchor_used",
    "check_new_file",
    "check_not_read",
    "check_read_already",
    "check_used",
    "encode_prompt",
    "files_read",
    "framed",
    "load_from",
    "note_off_topic",
    "one_prompt_source",
    "prompt_text",
    "say_template",
]


def load_from(options: Namespace, needs_tokenizer: bool = True) -> ProSG:
    """Loads the model of `add_model` and `add_state`.

    Raises:
        ValueError: also where it has no tokenizer but needs one.
    """
    from prosg.checkpoints.anchor import load_anchor
    from prosg.checkpoints.initial_state import load_initial
    from prosg.checkpoints.load import load_model, require_tokenizer
    from prosg.utils.device import parse_dtype, resolve_device
    from prosg.utils.threads import settle_threads

    settle_threads()
    device = resolve_device(options.device)
    model = load_model(
        options.model,
        base=options.base,
        tokenizer=options.tokenizer,
        dtype=parse_dtype(options.dtype),
        device=device,
        kernel=options.kernel,
        end_token=options.end_token,
        begin_token=options.begin_token,
        quantize=options.quantize,
        sliding_window=options.sliding_window,
    )
    if getattr(options, "state", None) is not None:
        model.initial = load_initial(options.state, model.backbone).to(device)
    if getattr(options, "anchor", None) is not None:
        if options.tau is not None:
            raise ValueError("--tau is one window for all, --anchor has windows of its own; give one of the two")
        model.anchor = load_anchor(options.anchor, model.backbone)
    if needs_tokenizer:
        require_tokenizer(model, options.model)
    return model


def check_used(option: str, value: object, needed: str, there: object) -> None:
    """Raises ValueError for an option that is given, so that `value` is true, without the one that it is for."""
    if value and not there:
        raise ValueError(f"{option} is for {needed}, which is not given; leave {option} out, or give {needed}")


def check_anchor_used(options: Namespace, memories: Iterable[str] = ()) -> None:
    """Raises ValueError for --anchor where none of the `memories` that are said, or --memory, is one with an anchor."""
    memories = [*memories] or [*filter(None, [getattr(options, "memory", None)])]
    if options.anchor is not None and memories and not {"anchor", "both", "auto"} & {*memories}:
        raise ValueError(f"--anchor is for --memory anchor, both or auto, but --memory is {','.join(memories)}")


READ = ("prompt_file", "encoded", "state", "anchor")
"""Options that name a file to read, beside those of the model."""
SOURCES = {"prompt": "--prompt TEXT", "prompt_file": "--prompt-file FILE", "encoded": "--encoded FILE"}


def one_prompt_source(options: Namespace) -> None:
    """Raises ValueError unless there is exactly one of the options of a command that say where its prompt is."""
    had = {name: words for name, words in SOURCES.items() if hasattr(options, name)}
    if sum(getattr(options, name) is not None for name in had) != 1:
        raise ValueError(f"give either {' or '.join(had.values())}")


def check_read_already(options: Namespace, *names: str) -> None:
    """Raises ValueError for options of reading a prompt beside --encoded, which was read already."""
    for name in names if options.encoded is not None else ():
        if getattr(options, name):
            raise ValueError(
                f"--{name} is for reading a prompt, but --encoded was read already: encode it with --{name}"
            )


def encode_prompt(options: Namespace, model: ProSG, memory: Memory | None = None) -> EncodedPrompt:
    """Encodes --prompt under --template and --window, and under --memory (or `memory`) and --tau where there are such.

    Says on stderr which template is used, and when the model does not know such a prompt.
    """
    memory, tau = memory or getattr(options, "memory", None), getattr(options, "tau", None)
    text = prompt_text(options.prompt)
    encoded = model.encode(framed(text, options, model), memory=memory, tau=tau, window=options.window)
    say_template(options, model)
    if not note_off_topic(options.model, text):
        _say_unknown(encoded)
    return encoded


def note_off_topic(model: str, prompt: str) -> bool:
    """Says on stderr what the packaged model knows, if that is the model and the prompt is no such; whether it did."""
    if model != "demo":
        return False
    from prosg.demo.topics import TOPICS, is_off_topic

    if off_topic := is_off_topic(prompt):
        print(f"note: {TOPICS}", file=sys.stderr)
    return off_topic


def _say_unknown(encoded: EncodedPrompt) -> None:
    """Says on stderr that a module was trained on other prompts than this one, and what that means."""
    if encoded.known is None or bool(encoded.known.all()):
        return
    if encoded.has_updates:
        meaning = "its update may do harm (see --memory auto)"
    else:
        meaning = "it gets no update" if encoded.anchor is None else "its anchor holds it, and no update"
    print(f"note: the module was trained on other prompts than this one: {meaning}", file=sys.stderr)


def framed(text: str, options: Namespace, model: ProSG) -> FramedPrompt:
    """Writes a prompt, as the user's turn, under --template."""
    from prosg.data.templates import Turn

    return model.own_template.choose(options.template, model.tokenizer).frame([Turn("user", text)])


def say_template(options: Namespace, model: ProSG) -> None:
    """Says on stderr which template is used where no option says so, or where it is not that of the training."""
    from prosg.data.templates import NONE

    own = model.own_template
    if options.template and own.trained is not None:
        chosen = own.choose(options.template, model.tokenizer)
        if chosen != own.trained:
            print(f"note: template {chosen.name}, but the model was trained with {own.trained.name}", file=sys.stderr)
    reason = model.own_template.reason(model.tokenizer)
    if not options.template and reason and model.template != NONE:
        print(f"template: {model.template.name}, {reason} (another with --template)", file=sys.stderr)


def prompt_text(prompt: str) -> str:
    """A prompt, read from standard input where it is "-".

    Raises:
        ValueError: for an empty prompt, and one that is not text.
    """
    if prompt == "-":
        prompt = sys.stdin.read().removeprefix("\ufeff").replace("\r\n", "\n").removesuffix("\n")
    if not prompt:
        raise ValueError("--prompt is empty; a prompt needs at least one character")
    check_text("--prompt", prompt)
    return prompt


def files_read(options: Namespace) -> list[Path]:
    """Returns the files that a command reads: those of `add_model`'s model, and of `READ`."""
    from prosg.checkpoints.model_files import model_files

    files = [file for some in model_files(options.model, options.base, options.tokenizer).values() for file in some]
    return [*files, *(Path(value) for name in READ if (value := getattr(options, name, None)) is not None)]


def check_not_read(option: str, path: str | Path, read: Iterable[str | Path]) -> None:
    """Raises ValueError where an option's file or folder is, or holds, one of the files that the command reads."""
    for file in map(Path, read):
        place = Path(os.path.realpath(file))
        holds = place.exists() and Path(os.path.realpath(path)) in place.parents
        if holds or same_file(path, file):
            what = f"holds {os.path.normpath(file)}, which" if holds else "is a file that"
            raise ValueError(f"{option} {path}: {what} is read, and is not replaced; name another place")


def check_new_file(option: str, path: str | Path, overwrite: bool, read: str | Path | None = None) -> Path:
    """Returns the path of a file to write.

    Raises:
        ValueError: for what is no file, for a file that may not be replaced, and for `read`, which the command reads.
    """
    if str(path).endswith(("/", os.sep)):
        raise ValueError(f"{option} {path}: names a folder; name a file in it")
    if read is not None and not Path(path).is_dir():
        check_not_read(option, path, [read])
    try:
        check_replaceable(path, overwrite=overwrite)
    except ReplaceableError as error:
        raise ValueError(f"{option} {error.named('--overwrite')}") from None
    except FileExistsError as error:
        raise ValueError(f"{option} {error}") from None
    return Path(path)
