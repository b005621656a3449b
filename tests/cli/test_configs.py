"""The configuration files that come with the package: each is read without complaint by its command."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from prosg.cli import COMMANDS
from prosg.cli.parser import Group, example_text, packaged_config
from prosg.cli.train import PACKAGED, PHASES, training_config, training_parser
from prosg.evaluation.config_file import load_config as load_evaluation
from prosg.evaluation.judge.config import load_judge
from prosg.musi.config import load_config as load_build
from prosg.training.config import TrainConfig
from prosg.utils.options import iter_options
from support.commands import status

READERS: dict[str, Callable[[str], object]] = {
    "eval.yaml": load_evaluation,
    "judge.yaml": load_judge,
    "musi.yaml": load_build,
    "train.yaml": lambda file: trained("synthesize", file),
    "paper-0.4b.yaml": lambda file: trained("synthesize", file),
    "paper-0.4b-phase1.yaml": lambda file: trained("finetune", file),
}


def trained(phase: Any, file: str) -> TrainConfig:
    return training_config(phase, training_parser(phase, "").parse([file]))


def test_every_file_has_a_reader() -> None:
    assert {file.name for file in resources.files("prosg").joinpath("configs").iterdir()} == {*READERS}


@pytest.mark.parametrize("name", READERS)
def test_it_is_read_without_complaint(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(example_text(name))
    READERS[name](name)


def test_the_papers_first_phase_feeds_its_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("paper-0.4b.yaml", "paper-0.4b-phase1.yaml"):
        Path(name).write_text(example_text(name))
    first, second = trained("finetune", "paper-0.4b-phase1.yaml"), trained("synthesize", "paper-0.4b.yaml")
    assert second.model == f"{first.out}/model"


def test_the_example_of_a_training_has_every_option(tmp_path: Path) -> None:
    """What stands behind "#" is at its default, and spelled as it is read."""
    text = example_text("train.yaml")
    everything = re.sub(r"^( *)# ( *[a-z_0-9]+:(?: |$))", r"\1\2", text, flags=re.MULTILINE)
    (tmp_path / "bare.yaml").write_text(text)
    (tmp_path / "whole.yaml").write_text(re.sub(r"^lora.*", "", everything, flags=re.MULTILINE))  # finetune's
    assert trained("synthesize", str(tmp_path / "whole.yaml")) == trained("synthesize", str(tmp_path / "bare.yaml"))
    content = yaml.safe_load(everything)
    written = {f"{key}.{inner}" for key, value in content.items() if isinstance(value, dict) for inner in value}
    written |= {key for key, value in content.items() if not isinstance(value, dict)}
    assert written == {option.name for _, options in iter_options(TrainConfig) for option in options}


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("eval", "eval.yaml"),
        ("judge", "judge.yaml"),
        ("data build", "musi.yaml"),
        ("ablate", "train.yaml"),
        ("train", "train.yaml"),
        *((f"train {phase}", "train.yaml") for phase in PHASES),
    ],
)
def test_a_command_prints_its_example(command: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([*command.split(), "--example"]) == 0
    assert capsys.readouterr().out == example_text(file)


@pytest.mark.parametrize(("phase", "name"), PACKAGED.items())
def test_a_packaged_configuration_by_its_name(
    phase: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["train"], ["train", phase]):
        assert status([*command, "--example", name]) == 0
        assert capsys.readouterr().out == example_text(f"{name}.yaml")
    expected = trained(phase, packaged_config(f"{name}.yaml"))
    assert trained(phase, name) == training_config(phase, training_parser(phase, "").parse(["--config", name]))
    assert trained(phase, name) == expected
    Path(name).write_text("model: m\ntrain: t\nout: o\n")  # one's own file goes first
    assert trained(phase, name).model == "m"


def test_an_unknown_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["train", "--example", "paper"]) == 2
    assert "'paper' is unknown, did you mean" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^paper-0.4b: "):  # phase 2's
        trained("finetune", "paper-0.4b")


def test_every_command_that_reads_a_file_has_an_example() -> None:
    for name, command in COMMANDS.items():
        for inner in command.commands.values() if isinstance(command, Group) else [command]:
            actions = inner.parser()._actions
            reads = any(action.metavar == "FILE" for action in actions)
            assert reads == any("--example" in action.option_strings for action in actions), name
