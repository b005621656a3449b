"""`prosg export`: a prompt's update, its state, and the model itself, for programs that do not know updates."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from prosg.cli.common import (
    add_model,
    add_overwrite,
    add_prompt,
    check_new_file,
    check_used,
    framed,
    load_from,
    prompt_text,
)
from prosg.cli.merge import LOST, model_and_update
from prosg.cli.parser import Command, Parser, path_text
from prosg.utils.replaceable import check_replaceable

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
    if not any(getattr(options, name) for name in OUTPUTS):
        raise ValueError(f"nothing to write: give one or more of {', '.join(OUTPUTS.values())}")
    adapters = options.peft or options.gguf
    check_used("--activated", options.activated, "--peft, --gguf or --gguf-state", adapters or options.gguf_state)
    check_used("--gguf-state-version", options.gguf_state_version is not None, "--gguf-state", options.gguf_state)
    check_used("--window", options.window is not None, "--peft or --gguf", adapters)
    check_used("--template", options.template, "--prompt", adapters or options.gguf_state)
    for name, option in OUTPUTS.items():  # all of them before the first is written
        if path := getattr(options, name):
            if name == "peft":
                from prosg.checkpoints.export import PEFT_FOLDER

                check_replaceable(path, overwrite=options.overwrite, kind=PEFT_FOLDER)
            else:
                check_new_file(option, path, options.overwrite)
    if options.prompt is not None:
        options.prompt = prompt_text(options.prompt)  # read once, where it comes from standard input
    if adapters:
        model, update = model_and_update(options)
        _export_update(options, model, update)
    elif options.gguf_state or options.prompt is None:
        model = load_from(options, needs_tokenizer=options.gguf_state is not None)
    else:
        raise ValueError("--prompt: a model alone is written without a prompt; leave it out")
    if options.gguf_state:
        _export_state(options, model)
    if options.gguf_model:
        from prosg.checkpoints.gguf_model import export_gguf_model

        said = export_gguf_model(model, options.gguf_model, overwrite=options.overwrite)
        print(f"{options.gguf_model}: {model.backbone.config.model_type} for llama.cpp, {said}")
    return 0


def _export_update(options: Namespace, model: ProSG, update: Update) -> None:
    """Writes the adapters."""
    from prosg.checkpoints.export import export_peft
    from prosg.checkpoints.gguf_lora import export_gguf_lora

    invocation = _invocation(options, model) if options.activated else []
    rank = next(iter(update.values())).a.shape[1]
    what = f"LoRA of rank {rank} on {len(update)} projections"
    if invocation:
        what = f"{what}, activated by the ids {', '.join(map(str, invocation))}"
    if options.peft:
        base = os.path.normpath(model.base) if (Path(model.base) / "config.json").is_file() else ""
        export_peft(model.backbone, update, options.peft, base=base, invocation=invocation, overwrite=options.overwrite)
        print(f"{options.peft}: {what}, for PEFT")
    if options.gguf:
        export_gguf_lora(model.backbone, update, options.gguf, invocation=invocation, overwrite=options.overwrite)
        print(f"{options.gguf}: {what}, for llama.cpp")
    print(LOST)


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


def _export_state(options: Namespace, model: ProSG) -> None:
    """Writes the state before the tokens that the other program has to read itself."""
    import torch

    from prosg.checkpoints.llama_state import export_llama_state

    if options.prompt is None:
        raise ValueError("--gguf-state needs --prompt: an encoded file does not have the prompt's tokens")
    ids = _prompt_ids(options, model)
    left = 1 + len(_invocation(options, model)) if options.activated else 1
    read = ids[: len(ids) - left]
    if not read:
        raise ValueError(f"--prompt has {len(ids)} tokens; a state is written of all but the last {left}")
    state = model.encode(torch.tensor([read], device=model.device), memory="none").state
    version = 4 if options.gguf_state_version is None else options.gguf_state_version
    export_llama_state(model.backbone, state, read, options.gguf_state, version=version, overwrite=options.overwrite)
    print(f"{options.gguf_state}: the state after {len(read)} of {len(ids)} tokens, for llama.cpp")


COMMAND = Command("a prompt's update as a LoRA adapter, and the model itself, for other programs", _parser, _run)
