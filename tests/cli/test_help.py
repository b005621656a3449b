"""Help of every command: its width, its usage, what it says of each option; and words that were misspelt."""

from __future__ import annotations

import argparse

import pytest

from prosg.cli import COMMANDS
from prosg.cli.parser import Group
from prosg.data.synthetic import KINDS
from prosg.training.recipes import RECIPES
from support.commands import commands, status

NAMES = [name for name, _ in commands()]
GROUPS = ["", *(name for name, command in COMMANDS.items() if isinstance(command, Group))]


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert status([*name.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("name", [*GROUPS, *NAMES])
def test_no_line_is_longer_than_a_terminal(
    name: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    longest = max(help_of(name, capsys).splitlines(), key=len)
    assert len(longest) <= 80, longest


@pytest.mark.parametrize("name", [*GROUPS, *NAMES])
def test_usage_is_one_line_with_what_is_needed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    usage = help_of(name, capsys).partition("\n\n")[0]
    assert "\n" not in usage and usage.startswith(f"usage: prosg {name}".rstrip())
    if name in NAMES:
        for action in dict(commands())[name].parser()._actions:
            if action.required:
                assert (action.option_strings or [str(action.metavar or action.dest.upper())])[-1] in usage


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_help_and_its_default(name: str) -> None:
    parser = dict(commands())[name].parser()
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        text = formatter._get_help_string(action)
        assert text, action.option_strings
        usual = action.default
        if action.option_strings and usual not in (None, argparse.SUPPRESS, "", [], ()) and not isinstance(usual, bool):
            assert "(default: " in text, action.option_strings


def test_kinds_and_recipes_stand_where_they_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    words = help_of("data make", capsys).partition("--kinds")[2].replace(",", " ").split()
    assert set(KINDS) <= set(words)
    for phase in ("finetune", "synthesize", "static", "anchor", "state"):
        text = help_of(f"train {phase}", capsys)
        names = [name for name, recipe in RECIPES.items() if recipe.phase == phase]
        said = " ".join(text.split()).partition(" One of ")[2].partition(".")[0]
        assert sorted(said.split(", ")) == sorted(names)
        listed = text.partition("recipes (--recipe)")[2]
        assert all(f"\n  {name} " in listed for name in names)
    assert status(["train", "synthesize", "--help-all"]) == 0
    assert "{nothing,last_input,last_position,all_positions}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("genrate", "'genrate' is unknown, did you mean generate?; allowed: demo, generate"),
        ("xyz", "'xyz' is unknown; allowed"),
        ("train finetun", "not 'finetun', did you mean finetune?"),
        ("generate demo --promt x", "--promt x, did you mean --prompt?"),
        ("generate demo --prompt x --memory anchr", "'anchr' is unknown, did you mean anchor?"),
        ("curve demo --out x.json --memory anchr", "--memory has anchr, did you mean anchor?; allowed"),
        ("curve demo --out x.json --updates owm", "--updates has owm, did you mean own?; allowed"),
        ("train finetune --model x --train x --out x --recipe durabel", "'durabel', did you mean durable?; for"),
        ("train finetune --model x --train x --out x --dtype bf15", "'bf15' is unknown, did you mean bf16?"),
        ("data make x.jsonl --kinds cod", "--kinds has cod, did you mean code?; allowed"),
        ("data make x.jsonl --split tset", "--split has tset, did you mean test?; allowed"),
        ("info demo --dtype bf61", "--dtype is 'bf61', did you mean bf16?; allowed"),
        ("demo --backbone rwvk7", "'rwvk7', did you mean rwkv7?; allowed"),
    ],
)
def test_a_misspelt_word_is_told_with_the_one_that_is_near(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert status(arguments.split()) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
