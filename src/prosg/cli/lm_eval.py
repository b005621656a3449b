"""`prosg lm-eval`: tasks of the lm-evaluation-harness, with its own options under its own names."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from prosg.cli.arguments import add_memory, add_model, add_overwrite, add_state, add_template
from prosg.cli.common import check_new_file, load_from
from prosg.cli.parser import Command, Parser, path_text
from prosg.utils.paths import user_path
from prosg.utils.yaml_text import check_yaml

__all__ = ["COMMAND"]

GREATEST_SEED = 2**32 - 1
"""NumPy's, which the harness gives it to."""
SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")


def _parser() -> Parser:
    parser = Parser(
        "Run tasks of the lm-evaluation-harness (pip install 'prosg[harness]'). A question's context is the prompt, "
        "and its answers are scored, or written, with what holds the prompt. Options have the harness' own names."
    )
    add_model(parser)
    add_state(parser)
    parser.add_list("--tasks", user_path, required=True, help="names, patterns or .yaml files of tasks")
    add_memory(parser)
    parser.add_argument("--out", type=path_text, help="the .json file to write: results and configuration")
    add_overwrite(parser)
    add_template(parser, "; for --apply-chat-template")
    parser.add_argument("--include-path", type=path_text, help="a folder with task files of one's own")
    parser.add_argument("--limit", type=float, help="examples per task; below 1 a share of them")
    parser.add_argument("--batch-size", type=int, default=16, help="requests at once")
    parser.add_argument("--num-fewshot", type=int, help="examples in front of each question; the task's by default")
    parser.add_argument("--gen-kwargs", help="options of writing for all tasks, like max_gen_toks=64")
    parser.add_argument("--system-instruction", help="what stands before each question")
    parser.add_argument("--apply-chat-template", action="store_true", help="write each question as --template does")
    parser.add_argument("--bootstrap-iters", type=int, default=100000, help="resamples for standard errors")
    parser.add_argument("--seed", type=int, help="of few-shot examples and of texts that are sampled; the harness' own")
    parser.add_argument("--log-samples", action="store_true", help="keep every question with its answers in --out")
    parser.add_argument(
        "--predict-only", action="store_true", help="keep answers, measure nothing; needs --log-samples"
    )
    parser.add_argument("--confirm-run-unsafe-code", action="store_true", help="let tasks run code that a model wrote")
    return parser


def _run(options: Namespace) -> int:
    from prosg.data.templates import NONE
    from prosg.evaluation.lm_eval import HarnessModel
    from prosg.utils.io import write_json

    out = None if options.out is None else check_new_file("--out", options.out, options.overwrite)
    limit = _limit(options.limit)
    for name, least in (("batch_size", 1), ("num_fewshot", 0), ("bootstrap_iters", 0), ("seed", 0)):
        if (number := getattr(options, name)) is not None and number < least:
            raise ValueError(f"--{name.replace('_', '-')} is {number}, must be at least {least}")
    if (options.seed or 0) > GREATEST_SEED:
        raise ValueError(f"--seed is {options.seed}, must be at most {GREATEST_SEED}")
    if options.log_samples and out is None:
        raise ValueError("--log-samples needs --out FILE to keep them in")
    if options.predict_only and not options.log_samples:
        raise ValueError("--predict-only needs --log-samples: there is nothing else to keep")
    needed = "--apply-chat-template needs --template: world, pile or raven"
    if options.apply_chat_template and options.template == "none":
        raise ValueError(needed)
    manager, tasks = _tasks(options.tasks, options.include_path)
    model = load_from(options)
    lm = HarnessModel(
        model,
        memory=options.memory,
        tau=options.tau,
        batch_size=options.batch_size,
        template=options.template or ("" if options.apply_chat_template else "none"),
        seed=options.seed or 0,
    )
    if options.apply_chat_template and lm.template == NONE:
        raise ValueError(f"{needed}; the model has none of its own")

    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable, make_table

    results = simple_evaluate(
        model=lm,
        tasks=tasks,
        task_manager=manager,
        limit=limit,
        batch_size=options.batch_size,
        num_fewshot=options.num_fewshot,
        gen_kwargs=options.gen_kwargs,
        system_instruction=options.system_instruction,
        apply_chat_template=options.apply_chat_template,
        bootstrap_iters=options.bootstrap_iters,
        log_samples=options.log_samples,
        predict_only=options.predict_only,
        confirm_run_unsafe_code=options.confirm_run_unsafe_code,
        **({} if options.seed is None else dict.fromkeys(SEEDS, options.seed)),
    )
    assert results is not None  # None is for processes beside the first
    if out is not None:
        write_json(out, json.loads(json.dumps(results, default=handle_non_serializable)), overwrite=options.overwrite)
    print(make_table(results))
    return 0


def _limit(limit: float | None) -> int | float | None:
    """Above 1 it is a number of examples, which the harness wants whole."""
    if limit is None or 0 < limit < 1:
        return limit
    if limit < 1 or not limit.is_integer():
        raise ValueError(f"--limit is {limit:g}, must be a whole number of examples, or a share between 0 and 1")
    return int(limit)


def _tasks(names: list[str], include_path: str | None) -> tuple[Any, list[str]]:
    """The harness' task manager, and the tasks' names and files; ValueError for what it does not know."""
    from lm_eval.tasks import TaskManager

    if include_path is not None and not Path(include_path).is_dir():
        raise ValueError(f"--include-path {include_path}: is not a folder")
    for name in filter(_is_file, names):
        check_yaml(name)
    # The harness' own thousands of files are looked through only where a task, or a part of a group, may be among them.
    manager = TaskManager(include_path=include_path, include_defaults=False)
    matches = _matches(names, manager)
    single = {*manager.all_subtasks, *filter(_is_file, names)}
    if not all(tasks and {*tasks} <= single for tasks in matches.values()):
        manager = TaskManager(include_path=include_path)
        matches = _matches(names, manager)
    for name, tasks in matches.items():
        if not tasks:
            for file in sorted(Path(include_path).rglob("*.yaml")) if include_path is not None else ():
                check_yaml(file)  # the harness passes over what it cannot read
            raise ValueError(
                f"--tasks: unknown task {name!r}; give names of the harness (lm-eval ls tasks), of files in "
                "--include-path, or a .yaml file"
            )
    return manager, list(dict.fromkeys(task for tasks in matches.values() for task in tasks))


def _matches(names: list[str], manager: Any) -> dict[str, list[str]]:
    """By name or pattern, what a manager has for it; files stand for themselves."""
    return {name: [name] if _is_file(name) else manager.match_tasks([name]) for name in names}


def _is_file(name: str) -> bool:
    return name.endswith(".yaml") and Path(name).is_file()


COMMAND = Command("tasks of the lm-evaluation-harness", _parser, _run)
