"""`prosg inspect`: what prompts' updates are like, and which tokens they were read from."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from prosg.cli.arguments import add_model, add_overwrite, add_state, add_template
from prosg.cli.common import check_new_file, framed, load_from, prompt_text, say_template
from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]

READS = {
    "last_input": "reads the last token only",
    "last_position": "reads the last token only",
    "nothing": "reads nothing",
}


def _parser() -> Parser:
    parser = Parser(
        "What prompts' updates are like. Per layer and projection: the update's Frobenius norm over the weight's, its "
        "singular values, and the cosine between the prompts' updates (1: they change the weights alike, 0: they have "
        "nothing in common). Then, for modules that read every position (plus), which tokens of each prompt the reads "
        "look at."
    )
    add_model(parser)
    add_state(parser)
    parser.add_argument("--prompt", action="append", required=True, help="a prompt; give several to compare")
    add_template(parser)
    parser.add_argument("--tokens", type=int, default=40, help="tokens of a prompt that are shown at most; 0: all")
    parser.add_argument("--png", type=path_text, help="also draw the heat map of the reads to this .png file")
    add_overwrite(parser)
    return parser


def _run(options: Namespace) -> int:
    from prosg.data.templates import known_template
    from prosg.inspection.render import attention_heat_map, comparison_table, plot_attention, prompt_labels
    from prosg.inspection.updates import compare_updates, prompt_attention
    from prosg.utils.tables import counted

    names = prompt_labels(len(options.prompt))
    known_template(options.template)
    texts = [prompt_text(prompt) for prompt in options.prompt]
    if options.tokens < 0:
        raise ValueError(f"--tokens is {options.tokens}, must not be negative; 0 shows all")
    if options.png is not None:
        check_new_file("--png", options.png, options.overwrite)
        if Path(options.png).suffix.lower() != ".png":
            raise ValueError(f"--png is {options.png}; it must end in .png")
    model = load_from(options)
    if model.prosg_config is None:
        raise ValueError(f"{options.model}: has no module, so a prompt has no update; name an adapter folder")
    reads = model.prosg_config.reads
    if options.png is not None and reads != "all_positions":
        raise ValueError(f"--png {options.png}: this module {READS[reads]}; there is no heat map to draw")
    prompts = [framed(text, options, model) for text in texts]
    say_template(options, model)
    ids, lengths = model.tokenise(prompts)
    update = model.encode(ids, lengths, memory="update").update
    assert update is not None and model.tokenizer is not None
    compared = compare_updates(model.backbone, update)
    weights = prompt_attention(model, ids, lengths)
    decode = model.tokenizer.decode
    tokens = [[decode([token]) for token in row[:n]] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
    if options.png is not None and weights is not None:
        # Before anything is printed: it may be refused.
        plot_attention(options.png, weights, tokens, overwrite=options.overwrite)
    for name, prompt in zip(names, prompts, strict=True):
        print(f"{name}  {prompt.text!r}")
    print("", *comparison_table(compared), sep="\n")
    if weights is None:
        print(f"\nThis module {READS[reads]}: there are no reads to look at.")
        return 0
    for i, name in enumerate(names):
        print(
            f"\n{name}  {counted(len(tokens[i]), 'token')}",
            *attention_heat_map(weights, i, tokens[i], options.tokens),
            sep="\n",
        )
    if options.png is not None:
        print(f"\n{options.png}")
    return 0


COMMAND = Command("what prompts' updates are like, and which tokens they were read from", _parser, _run)
