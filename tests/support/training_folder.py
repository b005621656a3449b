"""A folder with all that a small training needs: rows, a tokenizer, a backbone of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.backbone import save_backbone
from prosg.cli import main
from prosg.data.row import write_rows
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.tokenizers.bpe import train_bpe

SIZE = RWKV4Config(vocab_size=300, hidden_size=16, num_layers=2)


class TrainingFolder(NamedTuple):
    """Its files, and trainings on them."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "start"

    @property
    def train(self) -> Path:
        return self.folder / "train.jsonl"

    @property
    def validation(self) -> Path:
        return self.folder / "validation.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.json"

    def command(self, phase: str, output: Path | str, *options: Any) -> list[str]:
        """A training of 8 steps, with a checkpoint after every third."""
        few = {"--optim.steps": 8, "--optim.batch_size": 8, "--optim.lr": 3e-3, "--optim.warmup_steps": 2}
        files = {"--model": self.model, "--train": self.train, "--output": output, "--save_steps": 3}
        defaults = [str(part) for pair in {**files, **few}.items() for part in pair]
        return ["train", phase, *defaults, *map(str, options)]

    def run(self, phase: str, output: Path | str, *options: Any) -> None:
        assert main(self.command(phase, output, *options)) == 0


def make_training_folder(path: Path) -> TrainingFolder:
    folder = TrainingFolder(path)
    rows = make_rows(DEMO_KINDS, 40, 0, "train", sentences=(0, 1))
    write_rows(folder.train, rows)
    write_rows(folder.validation, make_rows(DEMO_KINDS, 8, 0, "validation", sentences=(0, 1)))
    tokenizer = train_bpe([text for row in rows for text in (row.prompt, row.answer)], SIZE.vocab_size)
    model = RWKV4(SIZE)
    generator = torch.Generator().manual_seed(0)
    model.reset_parameters(generator)
    with torch.no_grad():  # fresh weights leave the recurrence idle: a perturbation of its state would not show
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    save_backbone(model, folder.model, tokenizer=tokenizer.save(path))
    return folder


def step_lines(output: Path) -> list[dict[str, Any]]:
    """steps.jsonl of a run."""
    return [json.loads(line) for line in (output / "steps.jsonl").read_text().splitlines()]


def losses(output: Path) -> list[float]:
    """The loss of every step of a run."""
    return [line["loss"] for line in step_lines(output)]


def newest_checkpoint(output: Path) -> Path:
    """The folder of a run's last checkpoint."""
    return max(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def checkpointed(output: Path, file: str = "weights.safetensors") -> dict[str, torch.Tensor]:
    """Tensors of a run's last checkpoint: its trained weights, or its bank."""
    return load_file(newest_checkpoint(output) / file)
