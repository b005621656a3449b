"""Commands around an encoded prompt: take it elsewhere (merge, export), look at it (inspect); and the other files'.

Each has a parser and what runs it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from prosg.cli.common import (
    Parser,
    Tool,
    encode_prompt,
    load,
    model_options,
    prompt_text,
    state_option,
    template_option,
)
from prosg.cli.eval import EVALUATION
from prosg.cli.hub import SHARING
from prosg.cli.judge import JUDGING
from prosg.cli.lm_eval import HARNESS

__all__ = ["TOOLS"]


LOST = (
    "what stays behind: the prompt's recurrent state, since weights begin from the model's own initial state, and that "
    "here the first answer token comes from the unmodified weights"
)


READINGS = {
    "last_input": "reads the last token only",
    "last_position": "reads the last token only",
    "nothing": "reads nothing",
}


def _one_prompt(parser: Parser) -> Parser:
    parser.add_argument("--prompt", type=str, help="the prompt")
    parser.add_argument("--encoded", type=str, help="a file made by: prosg encode")
    template_option(parser, "none", "; the prompt is the user's turn")
    parser.add_argument("--window", type=int | None, help="show the module the prompt in windows of this many tokens")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def _merge_parser() -> Parser:
    parser = _one_prompt(
        model_options(
            Parser(
                description="Write the backbone with one prompt's update added to its weights, W + dW, for programs "
                f"that know no updates. It is computed in fp32 and stored in the weights' type. {LOST.capitalize()}."
            )
        )
    )
    parser.add_argument("--out", type=str, required=True, help="a .pth file (BlinkDL's layout), or a folder to write")
    return parser


def _export_parser() -> Parser:
    parser = _one_prompt(
        model_options(
            Parser(
                description="Write one prompt's update as a LoRA adapter that PEFT loads on the model in transformers' "
                "layout (prosg convert makes that): rank r, alpha = r, on the projections of the attention alone. "
                f"{LOST.capitalize()}."
            )
        )
    )
    parser.add_argument("--peft", type=str, required=True, help="the folder to write, in PEFT's layout")
    return parser


def _inspect_parser() -> Parser:
    description = (
        "What prompts' updates are like. Per layer and projection: the update's Frobenius norm over the weight's, its "
        "singular values, and the cosine between the prompts' updates (1: they change the weights alike, 0: they "
        "have nothing in common). Then, for modules that read every position (plus), which tokens of each prompt the "
        "reads look at."
    )
    parser = state_option(model_options(Parser(description=description)))
    parser.add_argument("--prompt", type=str, action="append", required=True, help="a prompt; give several to compare")
    template_option(parser, "none", "; each prompt is the user's turn")
    parser.add_argument("--tokens", type=int, default=40, help="tokens of a prompt that are shown at most; 0: all")
    parser.add_argument("--png", type=str, help="also draw the heat map of the reads to this .png file")
    return parser


def _update_of(options: Namespace, model: Any) -> Any:
    """The update of --prompt or --encoded; ValueError where there is none, or that of several prompts."""
    from prosg.checkpoints.encoded import load_encoded

    encoded = encode_prompt(options, model) if options.encoded is None else load_encoded(options.encoded, model)
    if encoded.update is None:
        raise ValueError(f"{options.model}: has no module, so a prompt has no update; name an adapter folder")
    if encoded.batch != 1:
        raise ValueError(f"{options.encoded}: holds {encoded.batch} prompts; weights hold one prompt's update")
    return encoded.update


def _model(options: Namespace) -> Any:
    """The model, once it is sure that there is one prompt."""
    if (options.prompt is None) == (options.encoded is None):
        raise ValueError("give either --prompt TEXT or --encoded FILE")
    return load(options, asks_tokenizer=options.encoded is None)


def _run_merge(options: Namespace) -> int:
    from prosg.checkpoints.backbone import save_backbone
    from prosg.checkpoints.export import merge
    from prosg.utils.device import dtype_name

    model = _model(options)
    update = _update_of(options, model)
    merged = merge(model.backbone, update)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = model.tokenizer.save(folder) if model.tokenizer is not None else None
        save_backbone(merged, options.out, tokenizer=tokenizer, overwrite=options.overwrite)
    dtype = dtype_name(next(merged.parameters()).dtype)
    print(f"{options.out}: {merged.config.model_type}, {len(update)} projections merged, {dtype}\n{LOST}")
    return 0


def _run_export(options: Namespace) -> int:
    from prosg.checkpoints.export import export_peft

    model = _model(options)
    update = _update_of(options, model)
    base = os.path.normpath(model.base) if (Path(model.base) / "config.json").is_file() else ""
    export_peft(model.backbone, update, options.peft, base=base, overwrite=options.overwrite)
    rank = next(iter(update.values())).a.shape[1]
    print(f"{options.peft}: LoRA of rank {rank} on {len(update)} projections, for PEFT\n{LOST}")
    return 0


def _run_inspect(options: Namespace) -> int:
    from prosg.inspection.render import attention_heat_map, comparison_table, plot_attention, prompt_labels
    from prosg.inspection.updates import compare_updates, prompt_attention

    names = prompt_labels(len(options.prompt))
    prompts = [prompt_text(prompt, options.template) for prompt in options.prompt]
    if options.tokens < 0:
        raise ValueError(f"--tokens is {options.tokens}, must not be negative; 0 shows all")
    if options.png is not None and Path(options.png).is_dir():
        raise ValueError(f"--png {options.png}: is a folder; name a file in it")
    model = load(options)
    if model.synthesizer is None:
        raise ValueError(f"{options.model}: has no module, so a prompt has no update; name an adapter folder")
    reading = model.synthesizer.config.reads
    if options.png is not None and reading != "all_positions":
        raise ValueError(f"--png {options.png}: this module {READINGS[reading]}; there is no heat map to draw")
    ids, lengths = model.tokenise(prompts)
    update = model.encode(ids, lengths).update
    seen = prompt_attention(model, ids, lengths)
    decode = model.tokenizer.decode
    tokens = [[decode([token]) for token in row[:n]] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
    if options.png is not None and seen is not None:
        plot_attention(options.png, seen, tokens)  # before anything is printed: it may be refused
    for name, prompt in zip(names, prompts, strict=True):
        print(f"{name}  {prompt!r}")
    print("", *comparison_table(compare_updates(model.backbone, update)), sep="\n")
    if seen is None:
        print(f"\nThis module {READINGS[reading]}: there are no reads to look at.")
        return 0
    for i, name in enumerate(names):
        print(f"\n{name}  {len(tokens[i])} tokens", *attention_heat_map(seen, i, tokens[i], options.tokens), sep="\n")
    if options.png is not None:
        print(f"\n{options.png}")
    return 0


TOOLS: dict[str, Tool] = {
    "merge": Tool(_merge_parser, "one prompt's update added to the weights, for other programs", _run_merge),
    "export": Tool(_export_parser, "one prompt's update as a LoRA adapter of PEFT", _run_export),
    "inspect": Tool(
        _inspect_parser, "what prompts' updates are like, and which tokens they were read from", _run_inspect
    ),
    **EVALUATION,
    **JUDGING,
    **HARNESS,
    **SHARING,
}
"""By the command's name."""
