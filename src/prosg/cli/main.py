"""The command line: every command is a function of the package with its options spelled out.

Errors that a user can mend are one line on stderr, exit status 2, without a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from prosg.cli.common import (
    Parser,
    check_text,
    complain,
    encode_prompt,
    kinds_given,
    load,
    model_options,
    state_option,
    template_option,
)
from prosg.cli.data import DATA, add_data_commands
from prosg.cli.tools import TOOLS
from prosg.cli.train import TRAINING, add_ablation_options, add_train_commands, config_named

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported: advice is not for a screen
    arguments = config_named(sys.argv[1:] if argv is None else argv)
    try:
        parser = _parser(arguments)
        if not arguments:
            parser.print_help()
            return 2
        options = parser.parse_args(arguments)
        command: Callable[[Any], int] = COMMANDS[_path(options)]
        status = command(_leaf(options))
        sys.stdout.flush()  # so that a pipe that was closed shows here, not in the interpreter's last moments
        return status
    except KeyboardInterrupt:
        goes_on = arguments[:1] in (["train"], ["demo"], ["ablate"], ["eval"]) or arguments[:2] == ["data", "build"]
        print("\nstopped" + "; the same command goes on from here" * goes_on, file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read has enough (`| head`). What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        known = error.filename is not None and error.strerror is not None
        return complain(f"{error.filename}: {error.strerror}" if known else str(error))
    except ValueError as error:
        return complain(str(error))


def _path(options: Namespace) -> str:
    names = [options.subcommand]
    inner = options[options.subcommand]
    while "subcommand" in inner:
        names.append(inner.subcommand)
        inner = inner[inner.subcommand]
    return " ".join(names)


def _leaf(options: Namespace) -> Namespace:
    while "subcommand" in options:
        options = options[options.subcommand]
    return options


# -- parsers


def _parser(arguments: Sequence[str]) -> Parser:
    parser = Parser(
        prog="prosg",
        description="A prompt becomes a low-rank update of a recurrent language model's weights.",
        epilog="Start with: prosg generate demo --prompt 'Remember the code 4821937. Tell a story, then say the code.'",
        version=version("prosg"),
    )
    commands = parser.add_subcommands(dest="subcommand", required=False)
    commands.add_subcommand("demo", _demo_parser(), help="train a small model here and show what the update does")
    commands.add_subcommand("generate", _generate_parser(), help="write an answer to a prompt")
    commands.add_subcommand("encode", _encode_parser(), help="turn a prompt into a file: state and weight update")
    train = Parser(description="Training. Killed and started again, a run goes on from its newest checkpoint.")
    commands.add_subcommand("train", train, help="fine-tune a backbone, or train a module on it")
    ablation = Parser(
        description="Train the module of a configuration, then once more without each of its parts and of its "
        "training's perturbations, measure all on the forgetting curve with controls, and print and write one table "
        "(ablation.md, ablation.json, ablation.png in --output). Options are those of: prosg train synthesize, for all "
        "trainings alike; the configuration may also stand alone: prosg ablate FILE.yaml. Stopped and started again, "
        "it goes on."
    )
    commands.add_subcommand("ablate", ablation, help="what each part of the module is worth")
    data = Parser(description="Multi-stage instructions with programmatic checks.")
    commands.add_subcommand("data", data, help="make, build, compose, check and count multi-stage instructions")
    commands.add_subcommand("perplexity", _perplexity_parser(), help="score answers: answer tokens only")
    commands.add_subcommand("curve", _curve_parser(), help="how much of its prompt a model still knows, how far on")
    commands.add_subcommand("info", _info_parser(), help="what a model is: sizes, sites, kernels, fingerprint")
    commands.add_subcommand("convert", _convert_parser(), help="between .pth files and Hugging Face folders")
    for name, tool in TOOLS.items():
        commands.add_subcommand(name, tool.parser(), help=tool.help)
    if "train" in arguments:  # hundreds of options take time to spell out, which the other commands need not wait for
        add_train_commands(train, arguments)
    if "ablate" in arguments:
        add_ablation_options(ablation, arguments)
    add_data_commands(data)
    return parser


def _demo_parser() -> Parser:
    parser = Parser(description="Train a small model, its module and the rivals here, and print the table.")
    parser.add_argument(
        "--full", action="store_true", help="with the rivals, three learning rates each, 192 rows a cell"
    )
    parser.add_argument("--backbone", type=str, default="rwkv4", help="rwkv4, rwkv7, retnet or mamba, each small")
    parser.add_argument("--seeds", type=str, default="1", help="one run each, like 1,2,3")
    parser.add_argument("--out", type=str, help="folder to go on in; by default runs/demo-NAME, with --full full-NAME")
    parser.add_argument("--rates", type=str, default="1e-3,3e-3,1e-2", help="learning rates that rivals choose from")
    parser.add_argument("--rows", type=int, help="prompts a cell; 64, with --full 192")
    parser.add_argument("--jobs", type=int, default=2, help="trainings and evaluations side by side")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display")
    return parser


def _generate_parser() -> Parser:
    parser = state_option(model_options(Parser(description="Write an answer, streamed as it comes.")))
    parser.add_argument("--prompt", type=str, help="the prompt")
    parser.add_argument("--encoded", type=str, help="a file made by: prosg encode")
    template_option(parser, "none", "; the prompt is the user's turn, and the answer ends where the next would begin")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest answer")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens; 0: all")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest that hold this probability")
    parser.add_argument(
        "--stop", type=str, action="append", help=r"end the answer at this text, like '\n'; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--no-update", action="store_true", help="the backbone alone")
    parser.add_argument("--hold-until", type=int, default=0, help="sentences to write before the marker is forced")
    parser.add_argument("--force-marker", type=str, default="", help=r"text that opens the late stage, like '\nCode:'")
    parser.add_argument("--late-temperature", type=float, default=0.0, help="temperature from the marker on")
    parser.add_argument("--window", type=int | None, help="show the module the prompt in windows of this many tokens")
    return parser


def _encode_parser() -> Parser:
    parser = state_option(
        model_options(Parser(description="Read a prompt once, and keep what it left: state and weight update."))
    )
    parser.add_argument("--prompt", type=str, required=True, help="the prompt")
    template_option(parser, "none", "; the prompt is the user's turn")
    parser.add_argument("--out", type=str, required=True, help="the .safetensors file to write")
    parser.add_argument("--window", type=int | None, help="show the module the prompt in windows of this many tokens")
    return parser


def _perplexity_parser() -> Parser:
    parser = state_option(
        model_options(Parser(description="Perplexity of answers under their prompts, end tokens included."))
    )
    parser.add_argument("file", type=str, help="jsonl rows of prompt and answer, messages, or text")
    template_option(parser, "", "; by default as the rows are, world for chat rows and World's tokenizer")
    parser.add_argument("--no-update", action="store_true", help="the backbone alone")
    parser.add_argument("--batch-size", type=int, default=32, help="rows scored at once")
    return parser


def _curve_parser() -> Parser:
    description = (
        "The forgetting curve: late-stage accuracy against distance, under the model's own update and the controls "
        "(another prompt's, the mean, none, state wiped), on generated instructions."
    )
    parser = state_option(model_options(Parser(description=description)))
    parser.add_argument("--out", type=str, required=True, help="the .json file to write: rows of results, and answers")
    parser.add_argument("--system", type=str, default="", help="what to call it in the results")
    parser.add_argument("--updates", type=str, help="own,other,mean,none,wiped; all but none by default")
    parser.add_argument("--rows", type=int, default=64, help="prompts per cell")
    parser.add_argument("--kinds", type=str, nargs="+", help="kinds, apart by commas or spaces; the demo's by default")
    parser.add_argument("--sentences", type=int, nargs="+", help="lengths of the story; the first is in range")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, stories and the derangement")
    parser.add_argument("--split", type=str, default="test", help="train, validation or test")
    parser.add_argument("--replay", action="store_true", help="read the prompt again before the late stage")
    parser.add_argument("--no-free", action="store_true", help="leave out answers of free length")
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        nargs="+",
        help="prompts of this length, the instruction among irrelevant sentences; several are measured one by one",
    )
    parser.add_argument(
        "--turns",
        type=int,
        nargs="+",
        help="so many other turns of the kind, read with their answers, between story and late stage; or several",
    )
    parser.add_argument("--items", type=int, nargs="+", help="so many digits, names or pairs in a prompt; or several")
    parser.add_argument(
        "--filler", type=str, help="a text file that stories are read from, sentence by sentence, instead of sampled"
    )
    parser.add_argument("--window", type=int | None, help="show the module the prompt in windows of this many tokens")
    return parser


def _info_parser() -> Parser:
    return model_options(Parser(description="What a model is, and what runs it here."))


def _convert_parser() -> Parser:
    parser = Parser(description="A .pth destination gets BlinkDL's layout, any other name a Hugging Face folder.")
    parser.add_argument("src", type=str, help="a .pth file or a folder")
    parser.add_argument("dst", type=str, help="what to write")
    parser.add_argument("--dtype", type=str, help="fp32, bf16, fp16 or fp64; as it is by default")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


# -- commands; what they need is imported when they run


def _run_generate(options: Namespace) -> int:
    from prosg.checkpoints.encoded import load_encoded
    from prosg.data.templates import TEMPLATES, known_template

    template = TEMPLATES[known_template(options.template) or "none"]
    if (options.prompt is None) == (options.encoded is None):
        raise ValueError("give either --prompt TEXT or --encoded FILE")
    if options.encoded is not None and options.state is not None:
        raise ValueError("--state begins a prompt, but --encoded holds the state after one: encode it with --state")
    model = load(options)
    encoded = encode_prompt(options, model) if options.encoded is None else load_encoded(options.encoded, model)
    check_text("--force-marker", options.force_marker)
    if options.no_update:
        encoded = encoded._replace(update=None)
    pieces = model.stream(
        encoded,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        stop=[*(text.replace("\\n", "\n") for text in options.stop or ()), *([template.stop] if template.stop else [])],
        seed=options.seed,
        hold_until=options.hold_until,
        force_marker=options.force_marker.replace("\\n", "\n"),
        late_temperature=options.late_temperature,
    )
    begun = not template.assistant
    for piece in pieces:
        shown = piece if begun else piece.removeprefix(" ")  # it stands between the cue and the reply
        begun = begun or piece != ""
        print(shown, end="", flush=True)
    print()
    return 0


def _run_encode(options: Namespace) -> int:
    from prosg.checkpoints.encoded import save_encoded

    out = Path(options.out)
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise ValueError(f"--out {out}: is a folder; name a file in it")
    model = load(options)
    encoded = encode_prompt(options, model)
    save_encoded(encoded, model, out)
    what = "state and update" if encoded.update else "state (this model has no module)"
    print(f"{out}: {what}, {out.stat().st_size:,} bytes")
    return 0


def _run_perplexity(options: Namespace) -> int:
    from prosg.training.run import perplexity_of_file

    model = load(options)
    return perplexity_of_file(
        model, options.file, update=not options.no_update, batch_size=options.batch_size, template=options.template
    )


def _run_curve(options: Namespace) -> int:
    from prosg.cli.curve import measure_curve
    from prosg.data.synthetic import DEMO_KINDS
    from prosg.evaluation.config import CurveConfig

    model = load(options)
    default = "none" if model.synthesizer is None else "own,other,mean,wiped"
    return measure_curve(
        model,
        options.out,
        system=options.system or options.model,
        seed=options.seed,
        updates=(options.updates or default).split(","),
        kinds=kinds_given(options.kinds) or DEMO_KINDS,
        split=options.split,
        free=not options.no_free,
        replay=options.replay,
        window=options.window,
        curve=CurveConfig(
            rows=options.rows,
            sentences=options.sentences or CurveConfig().sentences,
            prompt_tokens=options.prompt_tokens or [],
            turns=options.turns or [],
            items=options["items"] or [],  # a Namespace has a method of this name
            filler=options.filler or "",
        ),
    )


def _run_info(options: Namespace) -> int:
    from prosg.training.run import info

    return info(load(options, asks_tokenizer=False))


def _run_convert(options: Namespace) -> int:
    from prosg.checkpoints.backbone import convert
    from prosg.utils.device import parse_dtype

    convert(options.src, options.dst, parse_dtype(options.dtype), overwrite=options.overwrite)
    print(options.dst)
    return 0


def _run_demo(options: Namespace) -> int:
    from prosg.demo.plan import Plan, run_demo

    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise ValueError(f"--seeds is {options.seeds!r}; give whole numbers apart by commas, like 1,2,3") from None
    try:
        rates = tuple(float(rate) for rate in options.rates.split(","))
    except ValueError:
        raise ValueError(f"--rates is {options.rates!r}; give numbers apart by commas, like 1e-3,3e-3") from None
    plan = Plan(backbone=options.backbone, rows=options.rows or (192 if options.full else 64), rates=rates)
    out = options.out or f"runs/{'full' if options.full else 'demo'}-{plan.backbone}"
    return run_demo(out, seeds=seeds, full=options.full, jobs=options.jobs, plan=plan, live=not options.plain)


COMMANDS: dict[str, Callable[[Any], int]] = {
    "demo": _run_demo,
    "generate": _run_generate,
    "encode": _run_encode,
    **TRAINING,
    **DATA,
    "perplexity": _run_perplexity,
    "curve": _run_curve,
    "info": _run_info,
    "convert": _run_convert,
    **{name: tool.run for name, tool in TOOLS.items()},
}
