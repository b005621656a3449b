"""Running `prosg` commands in tests, and a folder with every kind of file that commands read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.backbones.rwkv4 import RWKV4
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.encoded import save_encoded
from prosg.checkpoints.load import load_model
from prosg.cli import COMMANDS, main
from prosg.cli.parser import Command, Group
from prosg.tokenizers.bpe import train_bpe
from support.training_folder import SIZE, TrainingFolder, make_training_folder

ROWS = '{"prompt": "Say a word.", "answer": "Tree."}\n'
PROMPT = "Remember: a tree, a lake."


def commands() -> Iterator[tuple[str, Command]]:
    """Every command by its whole name, those of groups among them."""
    for name, command in COMMANDS.items():
        if isinstance(command, Group):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())
        else:
            yield name, command


def status(command: list[str]) -> int:
    """The exit status of a command."""
    try:
        return main(command)
    except SystemExit as end:
        return int(end.code or 0)


def case(command: str, *words: str, more: tuple[str, ...] = ()) -> Any:
    """A command that is refused, and words of its error."""
    return pytest.param([*command.split(), *more], words, id=" ".join([command, *more])[:70])


def contents(folder: Path) -> dict[str, float]:
    """Every file of a folder, and when it was written."""
    return {str(path): path.stat().st_mtime for path in sorted(folder.rglob("*"))}


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def make_command_folder(folder: Path) -> TrainingFolder:
    """A training's folder with a trained adapter, encoded prompts, other backbones and every kind of bad file.

    run, plus: the training and its adapter. hello, one, two, bare .safetensors: encoded prompts; of `start` the last.
    """
    shop = make_training_folder(folder)
    shop.run("synthesize", folder / "run", "--optim.steps", 2, "--optim.lr", 0.1)
    shutil.copytree(folder / "run" / "adapter", folder / "plus")
    config = json.loads((folder / "plus" / "prosg_config.json").read_text())
    config["base"] = "../start"
    (folder / "plus" / "prosg_config.json").write_text(json.dumps(config))
    model, bare = load_model(folder / "plus"), load_model(folder / "start")
    save_encoded(model.encode("Hello."), folder / "hello.safetensors", model)
    save_encoded(model.encode(PROMPT), folder / "one.safetensors", model)
    save_encoded(model.encode([PROMPT, "Hello."]), folder / "two.safetensors", model)
    save_encoded(bare.encode(PROMPT), folder / "bare.safetensors", bare)
    (folder / "cut.safetensors").write_bytes((folder / "hello.safetensors").read_bytes()[:900])
    _add_models(shop)
    _add_bad_text(folder)
    return shop


def _add_models(shop: TrainingFolder) -> None:
    folder = shop.folder
    other = RWKV4(SIZE)
    other.reset_parameters(torch.Generator().manual_seed(5))
    save_backbone(other, folder / "other", tokenizer=shop.tokenizer)
    save_backbone(other, folder / "alone" / "x.pth")
    save_backbone(RWKV4(replace(SIZE, vocab_size=50277)), folder / "alone" / "pile.pth")
    whole = (folder / "alone" / "x.pth").read_bytes()
    (folder / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"emb.weight": Code(folder / "executed")}, folder / "code.pth")
    signs = {"v5": "ln_x.weight", "v6": "time_maa_x"}
    for version, sign in signs.items():
        torch.save({"emb.weight": torch.zeros(9, 4), f"blocks.0.att.{sign}": torch.zeros(4)}, folder / f"{version}.pth")
    odd = {f"blocks.{i}.att.time_state": torch.zeros(4, 4, 4) for i in range(2)}
    torch.save(odd, folder / "odd.pth")
    (folder / "many").mkdir()
    words = ["".join(chr(97 + i // 26**place % 26) for place in range(3)) for i in range(0, 26**3, 7)]
    train_bpe(words, SIZE.vocab_size + 50, min_frequency=1).save(folder / "many")


def _add_bad_text(folder: Path) -> None:
    (folder / "cut.txt").write_text("1 'a' 1\n2 'b' 1\n3 'c'")
    (folder / "rows.jsonl").write_text(ROWS)
    (folder / "bad.jsonl").write_text(ROWS + '{"prompt": "Say"\n')
    (folder / "blank.jsonl").write_text(ROWS + '{"prompt": "", "answer": "Tree."}\n')
    turns = [{"role": role, "content": "Tree."} for role in ("user", "user", "assistant")]
    (folder / "order.jsonl").write_text(ROWS + json.dumps({"messages": turns}) + "\n")
    (folder / "chat.jsonl").write_text(ROWS + json.dumps({"messages": turns[1:]}) + "\n")
    (folder / "none.jsonl").write_text("\n")
    (folder / "unknown.yaml").write_text("recipe: plain\noptim:\n  stepz: 3\n")
    (folder / "dotted.yaml").write_text("optim.stepz: 3\n")
    (folder / "top.yaml").write_text("recipees: plain\n")
    (folder / "word.yaml").write_text("optim:\n  steps: many\n")
    (folder / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (folder / "module.yaml").write_text("module:\n  rank: 2\n")
    (folder / "broken.yaml").write_text("optim: [\n")
    (folder / "list.yaml").write_text("- optim\n")
    (folder / "full").mkdir()
    (folder / "full" / "note.txt").write_text("mine")
