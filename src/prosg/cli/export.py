"""`prosg export`: a prompt's update, its state, and the model itself, for programs that do not know updates."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from prosg.cli.arguments import add_model, add_overwrite, add_prompt
from prosg.cli.common import (
    check_new_file,
    check_not_read,
    check_read_already,
    check_used,
    files_read,
    framed,
    load_from,
    one_prompt_source,
    prompt_text,
)
from prosg.cli.merge import LOST, model_and_update
from prosg.cli.parser import Command, Parser, path_text
from prosg.utils.replaceable import check_replaceable
from prosg.utils.tables import counted

if TYPE_CHECKING:
    from prosg.core.update import Update
    from prosg.model.prosg import ProSG

__all__ = ["COMMAND"]

OUTPUTS = {"peft": "--peft", "gguf": "--gguf", "gguf_state": "--gguf-state", "gguf_model": "--gguf-model"}


def _parser() -> Parser:
    parser = Parser(
        "Write one prompt's update as a LoRA adapter, of rank r with alpha = r, on the projections of the attention "
        "alone: for PEFT, which loads it on the model in transformers' layout (prosg convert makes that), or for "
        "llama.cpp, which loads it on the model that --gguf-model writes (docs: Run a prompt's update elsewhere). "
        f"{LOST.capitalize()}."
    )
    add_model(parser)
    add_prompt(parser)
    parser.add_argument("--peft", type=path_text, help="the folder to write, in PEFT's layout")
    parser.add_argument("--gguf", type=path_text, help="the .gguf file to write the update into, for llama.cpp")
    parser.add_argument(
        "--activated",
        action="store_true",
        help="have the adapter act from the ids on with which the template ends a prompt (activated LoRA), instead of "
        "on every token; without a template from the prompt's last id on",
    )
    parser.add_argument(
        "--gguf-state",
        type=path_text,
        help="the file to write RWKV-7's state into as a saved sequence of llama.cpp: after --prompt without its last "
        "token, or, with --activated, up to one token before those that activate the adapter",
    )
    parser.add_argument(
        "--gguf-state-version",
        type=int,
        help="of that file's format: 4 by default, or 3 for earlier ones (llama-cpp-python's up to 0.3.36 at least)",
    )
    parser.add_argument(
        "--gguf-model", type=path_text, help="the .gguf file to write the RWKV-7 itself into, for llama.cpp"
    )
    add_overwrite(parser)
    return parser


def _run(options: Namespace) -> int:
    _check_options(options)
    if options.prompt is not None:
        options.prompt = prompt_text(options.prompt)  # read once, where it comes from standard input
    update: Update | None = None
    if options.peft or options.gguf:
        model, update = model_and_update(options)
    else:
        model = load_from(options, needs_tokenizer=options.gguf_state is not None)
    _check_backbone(options, model, update)
    invocation = _invocation(options, model) if options.activated else []
    ids = _state_ids(options, model, invocation) if options.gguf_state else []
    if update is not None:
        _export_update(options, model, update, invocation)
    if options.gguf_state:
        _export_state(options, model, ids)
    if options.gguf_model:
        from prosg.checkpoints.gguf_model import export_gguf_model

        said = export_gguf_model(model, options.gguf_model, overwrite=options.overwrite)
        print(f"{options.gguf_model}: {model.backbone.config.model_type} for llama.cpp, {said}")
    return 0


def _check_options(options: Namespace) -> None:
    """Raises ValueError for options that do not go together, and outputs that cannot be written, before any is."""
    outputs = {option: path for name, option in OUTPUTS.items() if (path := getattr(options, name))}
    if not outputs:
        raise ValueError(f"nothing to write: give one or more of {', '.join(OUTPUTS.values())}")
    adapters = options.peft or options.gguf
    check_used("--activated", options.activated, "--peft, --gguf or --gguf-state", adapters or options.gguf_state)
    check_used("--gguf-state-version", options.gguf_state_version is not None, "--gguf-state", options.gguf_state)
    _state_version(options)
    check_used("--window", options.window is not None, "--peft or --gguf", adapters)
    check_used("--template", options.template, "--prompt", adapters or options.gguf_state)
    if options.gguf_state and options.prompt is None:
        raise ValueError("--gguf-state needs --prompt: an encoded file does not have the prompt's tokens")
    if adapters or options.gguf_state:
        one_prompt_source(options)
        check_read_already(options, "window", *(() if options.activated else ("template",)))
    for name in ("prompt", "encoded"):
        if not (adapters or options.gguf_state) and getattr(options, name) is not None:
            raise ValueError(f"--{name}: a model alone is written without a prompt; leave it out")
    _check_outputs(outputs, options)


def _check_outputs(outputs: dict[str, str], options: Namespace) -> None:
    """Raises an error for an output that cannot be written, or that two options name."""
    from prosg.checkpoints.export import PEFT_FOLDER
    from prosg.checkpoints.gguf_file import check_gguf

    read, taken = files_read(options), dict[str, str]()
    for option, path in outputs.items():
        if option == "--peft":
            check_replaceable(path, overwrite=options.overwrite, kind=PEFT_FOLDER)
        else:
            check_new_file(option, path, options.overwrite)
            check_not_read(option, path, read)
        if option in ("--gguf", "--gguf-model"):
            check_gguf(path)
        if (other := taken.setdefault(os.path.realpath(path), option)) != option:
            raise ValueError(f"{option} {path}: is the output of {other}, too; name another")


def _check_backbone(options: Namespace, model: ProSG, update: Update | None) -> None:
    """Raises ValueError for a model of which one of the outputs cannot be written."""
    from prosg.checkpoints.export import peft_sites
    from prosg.checkpoints.gguf_lora import gguf_site_names
    from prosg.checkpoints.gguf_model import check_gguf_model
    from prosg.checkpoints.llama_state import check_llama_state

    if options.peft and update is not None:
        peft_sites(model.backbone, update)
    if options.gguf:
        gguf_site_names(model.backbone)
    if options.gguf_state:
        check_llama_state(model.backbone, _state_version(options))
    if options.gguf_model:
        check_gguf_model(model.backbone)


def _export_update(options: Namespace, model: ProSG, update: Update, invocation: list[int]) -> None:
    """Writes the adapters."""
    from prosg.checkpoints.export import export_peft
    from prosg.checkpoints.gguf_lora import export_gguf_lora

    rank = next(iter(update.values())).a.shape[1]
    what = f"LoRA of rank {rank} on {len(update)} projections"
    if invocation:
        what = f"{what}, activated by the ids {', '.join(map(str, invocation))}"
    if options.peft:
        base = _peft_base(model)
        export_peft(model.backbone, update, options.peft, base=base, invocation=invocation, overwrite=options.overwrite)
        print(f"{options.peft}: {what}, for PEFT")
    if options.gguf:
        export_gguf_lora(model.backbone, update, options.gguf, invocation=invocation, overwrite=options.overwrite)
        print(f"{options.gguf}: {what}, for llama.cpp")
    print(LOST)


def _peft_base(model: ProSG) -> str:
    """The folder of the model that PEFT puts the adapter on; "" where there is none, which is said on stderr."""
    from prosg.backbones.hf.model import HFBackbone

    window = model.backbone.sliding_window if isinstance(model.backbone, HFBackbone) else 0
    if window:
        command = f"prosg convert {model.base} FOLDER --sliding-window {window}"
        print(f"note: the adapter is for a model with a window of {window} tokens: {command}", file=sys.stderr)
    elif (Path(model.base) / "config.json").is_file():
        return os.path.normpath(model.base)
    return ""


def _prompt_ids(options: Namespace, model: ProSG) -> list[int]:
    """Token ids of --prompt."""
    return model.prepare([framed(prompt_text(options.prompt), options, model)])[0].ids


def _invocation(options: Namespace, model: ProSG) -> list[int]:
    """The ids that activate an adapter."""
    from prosg.checkpoints.invocation import invocation_tokens
    from prosg.checkpoints.load import require_tokenizer

    tokenizer = require_tokenizer(model, options.model)
    template = model.own_template.choose(options.template, tokenizer)
    ids = [] if options.prompt is None else _prompt_ids(options, model)
    return invocation_tokens(template, tokenizer, template.special(model.special, tokenizer), ids)


def _state_version(options: Namespace) -> int:
    from prosg.checkpoints.llama_state import VERSIONS

    version: int = VERSIONS[-1] if options.gguf_state_version is None else options.gguf_state_version
    if version not in VERSIONS:
        raise ValueError(f"--gguf-state-version is {version}; allowed: {', '.join(map(str, VERSIONS))}")
    return version


def _state_ids(options: Namespace, model: ProSG, invocation: list[int]) -> list[int]:
    """Ids of --prompt. Raises ValueError where none is before those that the other program has to read itself."""
    ids, left = _prompt_ids(options, model), 1 + len(invocation)
    if len(ids) <= left:
        raise ValueError(f"--prompt has {counted(len(ids), 'token')}; a state is written of all but the last {left}")
    return ids[:-left]


def _export_state(options: Namespace, model: ProSG, ids: list[int]) -> None:
    """Writes the state after the ids."""
    import torch

    from prosg.checkpoints.llama_state import export_llama_state

    state = model.encode(torch.tensor([ids], device=model.device), memory="none").state
    version, overwrite = _state_version(options), options.overwrite
    export_llama_state(model.backbone, state, ids, options.gguf_state, version=version, overwrite=overwrite)
    print(f"{options.gguf_state}: the state after the first {len(ids)} tokens, for llama.cpp")


COMMAND = Command("a prompt's update as a LoRA adapter, and the model itself, for other programs", _parser, _run)
