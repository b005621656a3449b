"""The command line: every command is a function of the package with its options spelled out.

Errors that a user can mend are one line on stderr, exit status 2, without a traceback.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from prosg.cli_parts import (
    Parser,
    check_text,
    complain,
    dtype_named,
    encode_prompt,
    load,
    model_options,
    state_option,
    template_option,
)
from prosg.cli_tools import TOOLS
from prosg.config import RECIPES, Optimisation, Perturbation, ProSGConfig, StopRule, TrainConfig

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported: advice is not for a screen
    arguments = list(sys.argv[1:] if argv is None else argv)
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
        goes_on = arguments[:1] in (["train"], ["demo"], ["ablate"]) or arguments[:2] == ["data", "build"]
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
        "trainings alike. Stopped and started again, it goes on."
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
        _add_train_commands(train, arguments)
    if "ablate" in arguments:
        _add_ablation_options(ablation, arguments)
    _add_data_commands(data)
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


def _add_data_commands(parser: Parser) -> None:
    commands = parser.add_subcommands(dest="subcommand", required=True)
    make = Parser(description="Make rows from the grammars of the kinds.")
    make.add_argument("file", type=str, help="the jsonl file to write")
    make.add_argument("--size", type=int, default=1000, help="rows")
    make.add_argument("--seed", type=int, default=0, help="another seed, other rows")
    make.add_argument("--kinds", type=str, nargs="+", help="kinds, apart by commas or spaces; the demo's by default")
    make.add_argument("--distance", type=int, nargs=2, metavar=("MIN", "MAX"), help="words before the late stage")
    make.add_argument("--sentences", type=int, nargs=2, metavar=("MIN", "MAX"), help="sentences instead of words")
    make.add_argument("--split", type=str, default="train", help="train, validation or test: contents never overlap")
    make.add_argument(
        "--distractors",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="words of irrelevant sentences in the prompt, some before the instruction and some after it",
    )
    make.add_argument(
        "--filler",
        type=str,
        help="a text file whose sentences stand for the story; each split has paragraphs of its own, and no sentence "
        "with a word of the row's contents is taken",
    )
    make.add_argument(
        "--turns",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="other turns of the kind, each with contents of its own and answered, between the story and what the "
        "prompt asks for; their words are read, not learned",
    )
    make.add_argument(
        "--items",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="how much a prompt gives: digits of code (6 to 8 by default), names of names and reverse (4), pairs of "
        "pairs (2 to 4), objects of list_use (3)",
    )
    commands.add_subcommand("make", make, help="make a file of rows")
    check = Parser(
        description="Validate rows; with answers, score them. Status 0 all right, 1 some failed, 2 bad input."
    )
    check.add_argument("file", type=str, help="jsonl rows")
    check.add_argument("--answers", type=str, help='jsonl lines of {"id", "answer"}')
    commands.add_subcommand("check", check, help="validate rows and score answers")
    _add_musi_commands(commands)


def _add_musi_commands(commands: Any) -> None:
    build = Parser(
        description="Ask a chat model for multi-stage instructions and answers, filter and verify them, and export a "
        "data set. Stopped anywhere and started again, a build goes on. Every key of CONFIG: prosg data options."
    )
    build.add_argument("config", type=str, help="the YAML file of the build, like configs/musi.yaml")
    build.add_argument("--stages", type=str, nargs="+", help="prompts, filter, answers, verify, export; all by default")
    build.add_argument("--dry-run", action="store_true", help="estimate requests, tokens and money, and ask nothing")
    build.add_argument("--out", type=str, help="another folder than the configuration's")
    commands.add_subcommand("build", build, help="build a data set with a chat model")
    commands.add_subcommand(
        "options", Parser(description="Every key of a build's configuration."), help="keys of CONFIG"
    )
    compose = Parser(description="Put single tasks of other data sets together to multi-stage instructions; no model.")
    compose.add_argument("files", type=str, nargs="+", help="alpaca, dolly, self-instruct, sharegpt or messages layout")
    compose.add_argument("--size", type=int, default=1000, help="rows, 80 / 10 / 10 over the splits")
    compose.add_argument("--seed", type=int, default=0, help="another seed, other rows; the tasks' splits stay")
    compose.add_argument("--out", type=str, required=True, help="folder with a file per split, or one .jsonl file")
    compose.add_argument("--longest", type=int, default=0, help="leave out tasks of more words; 0: none")
    compose.add_argument("--licence", type=str, default="", help="of the tasks, for the data card")
    compose.add_argument("--overwrite", action="store_true", help="replace what is there")
    commands.add_subcommand("compose", compose, help="make multi-stage instructions of single tasks")
    review = Parser(
        description="Look through rows and decide: keep, drop, edit, undo. Decisions stand beside the file."
    )
    review.add_argument("file", type=str, help="jsonl rows")
    review.add_argument("--sample", type=int, default=0, help="look at this many rows, drawn by seed; 0: at all")
    review.add_argument("--seed", type=int, default=0, help="of the sample")
    review.add_argument("--apply", type=str, help="ask nothing, and write the rows as decided to this file")
    commands.add_subcommand("review", review, help="look through rows: keep, drop, edit")
    stats = Parser(description="Lengths, kinds, stages, distances and duplicates, as text and as a plot.")
    stats.add_argument("file", type=str, help="jsonl rows")
    stats.add_argument("--out", type=str, help="the .png file to write; beside the rows by default")
    stats.add_argument("--similar-above", type=float, default=0.7, help="ROUGE-L F1 above which prompts are alike")
    commands.add_subcommand("stats", stats, help="count and plot what is in a file")


PHASES = {
    "finetune": ("plain", "phase 1: the whole backbone, on the answers' tokens"),
    "synthesize": ("plus", "phase 2: the synthesis module, the backbone frozen"),
    "static": ("static", "the control: a low-rank adapter that reads no prompt"),
    "state": ("state", "state tuning: one learned initial state for every prompt, a .pth file for --state"),
}
WITH_MODULE = ("synthesize", "static")
"""Phases that train a synthesis module and so have its options."""
LORA = {"lora", "lora_alpha", "lora_modules"}
"""Options of finetune alone."""


GROUPS: dict[str, Any] = {
    "module": ProSGConfig,
    "perturbation": Perturbation,
    "optim": Optimisation,
    "stop": StopRule,
}
"""Options of a training that are groups of options."""


def _add_train_commands(parser: Parser, arguments: Sequence[str]) -> None:
    commands = parser.add_subcommands(dest="subcommand", required=True)
    for phase, (recipe, text) in PHASES.items():
        command = Parser(
            description=f"{text}. Recipes: {', '.join(n for n, r in RECIPES.items() if r.phase == phase)}."
        )
        _add_train_options(command, phase, recipe, arguments)
        command.add_argument(
            "--dry-run", action="store_true", help="say what would be trained, and in what time; write nothing"
        )
        commands.add_subcommand(phase, command, help=text)


def _add_train_options(command: Parser, phase: str, recipe: str, arguments: Sequence[str]) -> None:
    command.add_argument("--config", action="config", help="YAML with any of these options")
    skip = set() if phase in WITH_MODULE else {"module"}
    command.add_class_arguments(TrainConfig, skip=skip if phase == "finetune" else skip | LORA)
    command.set_defaults(_recipe_defaults(phase, _chosen_recipe(arguments) or recipe))


def _add_ablation_options(command: Parser, arguments: Sequence[str]) -> None:
    _add_train_options(command, "synthesize", PHASES["synthesize"][0], arguments)
    from prosg.ablation import PARTS

    command.add_argument(
        "--parts", type=str, nargs="+", help=f"what to leave out, one at a time: {', '.join(PARTS)}; all by default"
    )
    command.add_argument("--rows", type=int, default=64, help="prompts per cell of the curves")
    command.add_argument("--kinds", type=str, nargs="+", help="kinds of the curves' prompts; the demo's by default")
    command.add_argument("--sentences", type=int, nargs="+", help="lengths of the curves' stories")
    command.add_argument("--split", type=str, default="test", help="of the curves' prompts: train, validation or test")
    command.add_argument("--jobs", type=int, default=2, help="trainings and curves side by side")
    command.add_argument("--plain", action="store_true", help="lines instead of a live display")


def _chosen_recipe(arguments: Sequence[str]) -> str | None:
    """The recipe sets other options' defaults, so it has to be known before they are read.

    ValueError for a configuration file that cannot be read or has keys that do not exist: naming file and key.
    """
    chosen = None
    for path in _values("--config", arguments):
        content = _read_config(path)
        if isinstance(content.get("recipe"), str):
            chosen = content["recipe"]
    return next(reversed(_values("--recipe", arguments)), chosen)


def _values(option: str, arguments: Sequence[str]) -> list[str]:
    """What an option is given on the command line, as `--option VALUE` or `--option=VALUE`."""
    apart = [value for name, value in itertools.pairwise(arguments) if name == option]
    return apart + [value for name, equals, value in (a.partition("=") for a in arguments) if equals and name == option]


def _read_config(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({error})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; needs options and their values")
    for wrong, known in _unknown(TrainConfig, content):
        raise ValueError(f"{path}: unknown key {wrong}; known are {', '.join(known)}")
    return content


def _unknown(kind: Any, content: Mapping[Any, Any], inside: str = "") -> Iterator[tuple[str, list[str]]]:
    """Keys that are no option of a dataclass, and what is."""
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in content.items():
        name, _, rest = str(key).partition(".")
        if name not in known:
            yield f"{inside}{key}", known
        elif name in GROUPS and (rest or isinstance(value, Mapping)):
            yield from _unknown(GROUPS[name], {rest: None} if rest else value, f"{name}.")


def _recipe_defaults(phase: str, name: str) -> dict[str, Any]:
    recipe = RECIPES.get(name)
    if recipe is None or recipe.phase != phase:
        return {"recipe": name}  # refused when the command runs, with the names that are allowed
    defaults: dict[str, Any] = {"recipe": name}
    groups: dict[str, Any] = {"perturbation": recipe.perturbation, "optim": recipe.optim}
    if phase in WITH_MODULE:
        groups["module"] = recipe.module
    return defaults | {group: dataclasses.asdict(values) for group, values in groups.items()}


# -- commands; what they need is imported when they run


def _run_generate(options: Namespace) -> int:
    from prosg.adapter import load_encoded
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
    from prosg.adapter import save_encoded

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


def _run_train(phase: str) -> Callable[[Namespace], int]:
    def run(options: Namespace) -> int:
        from prosg.commands import train

        return train(phase, _train_config(options), dry_run=options.dry_run)

    return run


def _train_config(options: Namespace) -> TrainConfig:
    values = {field.name: options[field.name] for field in dataclasses.fields(TrainConfig) if field.name in options}
    for name, kind in ((name, kind) for name, kind in GROUPS.items() if name in values):
        values[name] = kind(**values[name].as_dict()) if isinstance(values[name], Namespace) else values[name]
    return TrainConfig(**values)


def _run_ablate(options: Namespace) -> int:
    from prosg.ablation import ablate
    from prosg.data.kinds import DEMO_KINDS
    from prosg.evaluation.curve import SENTENCES

    measure = {
        "rows": options.rows,
        "kinds": _kinds(options.kinds) or list(DEMO_KINDS),
        "sentences": options.sentences or list(SENTENCES),
        "split": options.split,
    }
    config = _train_config(options)
    return ablate(config, parts=_kinds(options.parts), measure=measure, jobs=options.jobs, live=not options.plain)


def _kinds(given: list[str] | None) -> list[str]:
    return [kind for part in given or [] for kind in part.split(",") if kind]


def _run_data_make(options: Namespace) -> int:
    from prosg.data import commands
    from prosg.data.kinds import DEMO_KINDS, SENTENCES

    if options.distance and options.sentences:
        raise ValueError("give --distance or --sentences, not both")
    return commands.make(
        options.file,
        size=options.size,
        seed=options.seed,
        kinds=_kinds(options.kinds) or DEMO_KINDS,
        distance=tuple(options.distance) if options.distance else None,
        sentences=tuple(options.sentences) if options.sentences else SENTENCES,
        split=options.split,
        filler=options.filler,
        **{name: tuple(options[name]) if options[name] else None for name in ("distractors", "turns", "items")},
    )


def _run_data_check(options: Namespace) -> int:
    from prosg.data import commands

    return commands.check(options.file, answers=options.answers)


def _run_data_build(options: Namespace) -> int:
    from prosg.data.musi.build import STAGES, build

    return build(options.config, stages=_kinds(options.stages) or STAGES, dry_run=options.dry_run, out=options.out)


def _run_data_options(options: Namespace) -> int:
    from prosg.data.musi.config import BuildConfig
    from prosg.options import help_text

    print(help_text(BuildConfig))
    return 0


def _run_data_compose(options: Namespace) -> int:
    from prosg.data.musi.composing import compose

    return compose(
        options.files,
        options.out,
        size=options.size,
        seed=options.seed,
        longest=options.longest,
        licence=options.licence,
        overwrite=options.overwrite,
    )


def _run_data_review(options: Namespace) -> int:
    from prosg.data.musi.review import review

    return review(options.file, sample=options.sample, seed=options.seed, apply_to=options.apply)


def _run_data_stats(options: Namespace) -> int:
    from prosg.data.musi.stats import stats

    return stats(options.file, out=options.out, above=options.similar_above)


def _run_perplexity(options: Namespace) -> int:
    from prosg.commands import perplexity_of_file

    model = load(options)
    return perplexity_of_file(
        model, options.file, update=not options.no_update, batch_size=options.batch_size, template=options.template
    )


def _run_curve(options: Namespace) -> int:
    from prosg.commands import curve_of_model
    from prosg.data.kinds import DEMO_KINDS
    from prosg.evaluation.curve import SENTENCES

    model = load(options)
    default = "none" if model.synthesizer is None else "own,other,mean,wiped"
    return curve_of_model(
        model,
        options.out,
        system=options.system or options.model,
        seed=options.seed,
        updates=(options.updates or default).split(","),
        kinds=_kinds(options.kinds) or DEMO_KINDS,
        size=options.rows,
        sentences=options.sentences or SENTENCES,
        split=options.split,
        replay=options.replay,
        free=not options.no_free,
        prompt_tokens=options.prompt_tokens or (),
        turns=options.turns or (),
        items=options["items"] or (),  # a Namespace has a method of this name
        filler=options.filler,
        window=options.window,
    )


def _run_info(options: Namespace) -> int:
    from prosg.commands import info

    return info(load(options, asks_tokenizer=False))


def _run_convert(options: Namespace) -> int:
    from prosg.checkpoint import convert

    convert(options.src, options.dst, dtype_named(options.dtype), overwrite=options.overwrite)
    print(options.dst)
    return 0


def _run_demo(options: Namespace) -> int:
    from prosg.demo import Plan, run

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
    return run(out, seeds=seeds, full=options.full, jobs=options.jobs, plan=plan, live=not options.plain)


COMMANDS: dict[str, Callable[[Any], int]] = {
    "demo": _run_demo,
    "generate": _run_generate,
    "encode": _run_encode,
    "train finetune": _run_train("finetune"),
    "train synthesize": _run_train("synthesize"),
    "train static": _run_train("static"),
    "train state": _run_train("state"),
    "data make": _run_data_make,
    "data check": _run_data_check,
    "data build": _run_data_build,
    "data options": _run_data_options,
    "data compose": _run_data_compose,
    "data review": _run_data_review,
    "data stats": _run_data_stats,
    "perplexity": _run_perplexity,
    "ablate": _run_ablate,
    "curve": _run_curve,
    "info": _run_info,
    "convert": _run_convert,
    **{name: tool.run for name, tool in TOOLS.items()},
}
