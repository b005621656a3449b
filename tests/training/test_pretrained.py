"""What training on a pretrained model of transformers adds: warm starts, cached taps, passages, and the contrast."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prosg.backbones.hf.calls import HookedModel
from prosg.checkpoints.anchor import load_anchor
from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.data.row import Row, write_rows
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.tokenizers.bpe import train_bpe
from prosg.training.callbacks import EVAL_CONTRAST, EVAL_CONTRAST_ERROR, NoiseWarning
from support.hf_models import hf_model
from support.training_folder import losses

STEPS = 3


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    rows = make_rows(DEMO_KINDS, 10, 0, "train", sentences=(0, 0))
    passages = [Row(f"p{i}", f"Line {i} of a text", f" goes on for {i} words", "passage", open=True) for i in range(10)]
    write_rows(folder / "rows.jsonl", [*rows, *passages])
    write_rows(folder / "validation.jsonl", make_rows(DEMO_KINDS, 6, 0, "validation", sentences=(0, 0)))
    tokenizer = train_bpe([text for row in (*rows, *passages) for text in (row.prompt, row.answer)], 300)
    hf_model("llama", vocab=300).save_pretrained(folder / "m")
    tokenizer.save(folder / "m")
    for seed in (0, 1):
        hf_model("mamba", vocab=300, seed=seed).save_pretrained(folder / f"mamba-{seed}")
        tokenizer.save(folder / f"mamba-{seed}")
    return folder


def train(start: Path, out: Path, *options: Any, status: int = 0, phase: str = "synthesize", model: str = "m") -> None:
    few = ["--optim.steps", STEPS, "--optim.batch-size", 5, "--optim.warmup-steps", 1, "--save-steps", 100]
    recipe = ["--recipe", "plus-transformers"] if phase == "synthesize" else []
    command = ["train", phase, "--model", start / model, "--train", start / "rows.jsonl", "--out", out, *recipe, *few]
    assert main([*map(str, command), "--device", "cpu", "--threads", "1", *map(str, options)]) == status


def test_cached_taps_give_the_same_training(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(start, tmp_path / "plain", model="mamba-0")
    taps = tmp_path / "taps"
    train(start, tmp_path / "first", "--cache-taps", taps, model="mamba-0")
    files = sorted(taps.iterdir())
    assert 0 < len(files) <= STEPS * 5
    calls = []
    call = HookedModel.call

    def watch(self: Any, tokens: Any, state: Any, options: Any, keep_state: bool = True) -> Any:
        calls.append(options.taps)
        return call(self, tokens, state, options, keep_state)

    monkeypatch.setattr(HookedModel, "call", watch)
    files[0].write_bytes(b"damaged")
    train(start, tmp_path / "second", "--cache-taps", taps, model="mamba-0")
    assert sum(calls) == 1  # the damaged entry alone is read again
    assert losses(tmp_path / "first") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    assert losses(tmp_path / "second") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    train(start, tmp_path / "bounded", "--cache-taps", tmp_path / "small", "--cache-taps-gb", 20e-6, model="mamba-0")
    assert sum(file.stat().st_size for file in (tmp_path / "small").iterdir()) < 30_000
    train(start, tmp_path / "other", "--cache-taps", taps, model="mamba-1")
    assert len(list(taps.iterdir())) > len(files)  # another model's taps are others


def test_windows_are_read_beside_cached_taps(start: Path, tmp_path: Path) -> None:
    windows = ("--module.window", 4, "--optim.skip-above", 1e6)
    train(start, tmp_path / "plain", *windows, model="mamba-0")
    train(start, tmp_path / "cached", *windows, "--cache-taps", tmp_path / "taps", model="mamba-0")
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)
    train(start, tmp_path / "whole", *windows[2:], model="mamba-0")
    assert losses(tmp_path / "whole")[1:] != pytest.approx(losses(tmp_path / "plain")[1:], rel=1e-5)


def test_a_warm_start_goes_on_from_an_adapter(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(start, tmp_path / "one")
    train(start, tmp_path / "two", "--init", tmp_path / "one", "--optim.lr", 1e-12)
    one, two = (load_model(tmp_path / name).synthesizer.state_dict() for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-9), name
    assert json.loads((tmp_path / "two" / "inputs.json").read_text())["init"]
    capsys.readouterr()
    train(start, tmp_path / "three", "--init", tmp_path / "one", "--module.rank", 2, status=2)
    assert "module of other options: rank is 8, here 2" in capsys.readouterr().err
    train(start, tmp_path / "three", "--init", start / "m", status=2)
    assert "not an adapter folder" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()
    train(start, tmp_path / "two", "--init", tmp_path / "one", status=2)  # another rate
    assert "--optim.lr was 1e-12" in capsys.readouterr().err


def test_passages_and_kinds_are_mixed_and_taught(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mix = ["--mix", "passage=1"]
    train(start, tmp_path / "taught", *mix)
    train(start, tmp_path / "told", *mix, "--distil", "none")
    first = [losses(tmp_path / name)[0] for name in ("taught", "told")]
    assert 0 <= first[0] < first[1] / 2  # the teacher is the model itself
    assert "template" not in capsys.readouterr().err  # running text has none
    assert not (tmp_path / "taught" / "adapter" / "chat_template.jinja").exists()
    train(start, tmp_path / "all", "--distil", "all", "--mix", "passage=1", "code=2")
    capsys.readouterr()
    train(start, tmp_path / "x", "--mix", "pasage=1", status=2)
    assert "mix names pasage" in capsys.readouterr().err
    train(start, tmp_path / "x", "--distil", "all", phase="finetune", status=2)
    assert "finetune trains no module" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_an_anchor_that_keeps_keys_is_trained_under_and_has_nothing_to_learn(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    window = ("--sliding-window", 8)
    train(start, tmp_path / "windows", *window, phase="anchor", status=2)
    assert "has none to learn: its anchor keeps" in capsys.readouterr().err
    assert not (tmp_path / "windows").exists()
    train(start, tmp_path / "started", "--perturbation.start", 0.1, status=2)
    assert "perturbation.start must be 0" in capsys.readouterr().err  # its bank would grow without end
    train(start, tmp_path / "under", *window, "--anchor.enabled", "true")
    load_anchor(tmp_path / "under", load_model(tmp_path / "under").backbone)


def test_validation_says_whether_prompts_are_told_apart(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(start, tmp_path / "run", "--validation", start / "validation.jsonl", "--eval-steps", 1, "--optim.lr", 1e-12)
    said = capsys.readouterr().err
    assert "other minus own, wiped 0.0000" in said
    assert said.count("in 3 evaluations another prompt's update did as well") == 1
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert metrics[EVAL_CONTRAST] == pytest.approx(0, abs=1e-6) and EVAL_CONTRAST_ERROR in metrics


@pytest.mark.parametrize(("gaps", "warned"), [([0.0] * 3, True), ([0.0, 0.0, 0.5], False), ([0.0] * 2, False)])
def test_the_warning_comes_once(gaps: list[float], warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    history = [{EVAL_CONTRAST: gap, EVAL_CONTRAST_ERROR: 0.1} for gap in gaps]
    NoiseWarning().on_evaluate(None, SimpleNamespace(log_history=history), None)
    more = [*history, history[0]] if warned else []
    NoiseWarning().on_evaluate(None, SimpleNamespace(log_history=more), None)
    assert capsys.readouterr().err.count("note:") == warned
