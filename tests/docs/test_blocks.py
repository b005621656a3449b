"""The code blocks of README and docs: commands parse with the real parsers, Python compiles, and its names exist."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from prosg.cli import COMMANDS
from prosg.cli.main import _parsed as parsed
from prosg.cli.train import training_config
from prosg.evaluation.config import EvalConfig
from prosg.training.recipes import RECIPES
from prosg.utils.options import build
from support.documents import ROOT, CodeBlock, ShellCommand, code_blocks, shell_commands

LANGUAGES = {"sh", "python", "yaml", "json", "text"}
PLACEHOLDERS = {"DIR", "FILE", "FOLDER", "MODEL", "NAME", "OWNER", "RUN"}
"""Words in capitals that stand for something of the reader's; docs/concepts.md lists them."""

BLOCKS = list(code_blocks())
COMMAND_LINES = [command for block in BLOCKS if block.language == "sh" for command in shell_commands(block)]


def prosg_arguments(command: ShellCommand) -> list[str] | None:
    """What `prosg` is called with; None for another program."""
    words = command.words
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:1] == ["prosg"]:
        return words[1:]
    if words and words[0] in ("torchrun", "accelerate", "python") and "prosg" in words and "-m" in words:
        return words[words.index("prosg") + 1 :]
    return None


PROSG = [(command.place, arguments) for command in COMMAND_LINES if (arguments := prosg_arguments(command)) is not None]


def test_there_are_blocks_of_every_sort() -> None:
    assert len(PROSG) > 40
    assert {"README.md", "docs/quick-start.md"} <= {
        block.document for block in BLOCKS if block.language == "python"
    } | {place.partition(":")[0] for place, _ in PROSG}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_says_its_language(block: CodeBlock) -> None:
    assert block.language in LANGUAGES


@pytest.mark.parametrize(("place", "arguments"), PROSG, ids=[place for place, _ in PROSG])
def test_a_command_parses(place: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command, options, status = None, Namespace(), None
    try:
        command, options = parsed(arguments)
    except SystemExit as end:  # --help, --version, --example print and end
        status = end.code
    assert command is not None or status == 0, f"{place}: {capsys.readouterr().err}"
    if command is None:
        return
    if arguments[0] == "train":
        check_training(place, arguments, options)


def check_training(place: str, arguments: list[str], options: Namespace) -> None:
    """Checks a training's recipe and values, too, where the files that it names come with the package."""
    files = [Path(file) for file in (options.file, *options.config) if file is not None]
    if all((ROOT / file).is_file() for file in files):
        options.file = options.file and str(ROOT / options.file)
        phase = arguments[1]
        assert phase in COMMANDS["train"].commands  # type: ignore[union-attr]
        training_config(phase, options)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", COMMAND_LINES, ids=[command.place for command in COMMAND_LINES])
def test_words_in_capitals_are_placeholders_that_are_declared(command: ShellCommand) -> None:
    values = [word for word in command.words if not re.fullmatch(r"[A-Z_]+=.*", word) and " " not in word]
    capitals = {name for word in values for name in re.findall(r"(?<![\w.-])[A-Z]{2,}(?![\w-])", word)}
    assert capitals <= PLACEHOLDERS
    assert "..." not in [
        word for before, word in zip(command.words, command.words[1:], strict=False) if before != "--prompt"
    ]


def test_placeholders_are_those_that_the_documents_declare() -> None:
    text = (ROOT / "docs/concepts.md").read_text("utf-8").partition("## Names in the examples")[2].partition("\n## ")[0]
    declared = {
        name for cell in re.findall(r"^\| (.*?) \|", text, re.MULTILINE) for name in re.findall(r"[A-Z]{2,}", cell)
    }
    assert declared == PLACEHOLDERS


def python_blocks() -> list[CodeBlock]:
    return [block for block in BLOCKS if block.language == "python"]


def names_of(tree: ast.Module) -> Iterator[str]:
    """Dotted names of prosg that a program uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "prosg":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("prosg."):
            name = ast.unparse(node)
            if re.fullmatch(r"[\w.]+", name):
                yield name


@pytest.mark.parametrize("block", python_blocks(), ids=str)
def test_python_compiles_and_its_names_exist(block: CodeBlock) -> None:
    for name in names_of(ast.parse(block.text)):
        try:
            assert exists(name), name
        except ValueError as error:  # as modules say that a package is missing
            pytest.skip(str(error))


def exists(name: str) -> bool:
    """Whether there is such a module, or such a name in the module before it."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name) is not None
    except ImportError:
        return hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("block", [block for block in python_blocks() if 'load_model("demo")' in block.text], ids=str)
def test_python_on_the_packaged_model_runs(block: CodeBlock, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", block.text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=str)
def test_yaml_has_known_options(block: CodeBlock) -> None:
    assert set(build(EvalConfig, {"out": "runs/eval", **yaml.safe_load(block.text)}).systems)


def test_the_page_of_training_names_every_recipe() -> None:
    text = (ROOT / "docs/training.md").read_text("utf-8")
    for name, recipe in RECIPES.items():
        (line,) = re.findall(rf"^\| `{recipe.phase}` \| (`.*) \|$", text, re.MULTILINE)
        assert f"`{name}`" in line
