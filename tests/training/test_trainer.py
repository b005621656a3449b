"""What trains, on which loss, and which steps are skipped."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import prosg.training.fit
from prosg.backbones.rwkv4 import RWKV4
from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.initial_state import load_initial
from prosg.checkpoints.load import load_model
from prosg.data.encode import EncodedRow, encode_rows, replay_prompt
from prosg.data.row import read_rows, row_to_dict
from prosg.model.config import ProSGConfig
from prosg.model.initial_state import InitialState
from prosg.model.perplexity import perplexity
from prosg.model.prosg import ProSG
from prosg.tokenizers.files import load_tokenizer
from prosg.training.config import Optimisation, Perturbation, Phase, TrainConfig
from prosg.training.fit import fit
from prosg.training.trainer import ProSGTrainer
from support.training_folder import TrainingFolder, checkpointed, losses, step_lines

WholeRun = Callable[..., Path]
Train = Callable[..., ProSG]


@pytest.fixture
def train(folder: TrainingFolder, tmp_path: Path, rows: list[EncodedRow]) -> Train:
    """Trains through `fit` into tmp_path / "out" and returns the model itself."""

    def run(phase: Phase, some: list[EncodedRow] | None = None, **options: Any) -> ProSG:
        preset = {"synthesize": "plus", "static": "static"}.get(phase)
        model = ProSG(load_backbone(folder.model), preset and ProSGConfig.from_preset(preset), seed=0)
        optim = options.pop("optim", Optimisation(steps=2, batch_size=8, lr=1e-3, warmup_steps=0))
        config = TrainConfig(str(folder.model), [str(folder.train)], str(tmp_path / "out"), optim=optim, **options)
        fit(model, phase, config, some or rows, [])
        return model

    return run


@pytest.mark.parametrize("phase", ["synthesize", "static"])
def test_the_backbone_stays_as_it_was(folder: TrainingFolder, tmp_path: Path, train: Train, phase: Phase) -> None:
    prompts: list[bool] = []
    forward = RWKV4.forward

    def watch(self: RWKV4, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("logits") == "last":  # the prompt's pass
            prompts.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RWKV4, "forward", watch)
        model = train(phase, perturbation=Perturbation(wipe_first=0.5, load=0.5, load_story=0.5))
    before = load_backbone(folder.model).state_dict()
    after = model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    assert prompts and not any(prompts)
    assert model.synthesizer is not None
    fresh = ProSG(load_backbone(folder.model), model.prosg_config, seed=0).synthesizer
    assert fresh is not None
    assert any(not torch.equal(a, b) for a, b in zip(model.synthesizer.parameters(), fresh.parameters(), strict=True))
    saved = checkpointed(tmp_path / "out")
    assert saved and all(name.startswith("synthesizer.") for name in saved)


def test_phase_1_trains_everything(folder: TrainingFolder, train: Train) -> None:
    after = train("finetune").backbone.state_dict()
    before = load_backbone(folder.model).state_dict()
    # Layer 0's pre-norm and every matrix: nothing is left where it was.
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_state_tuning_trains_one_state_and_nothing_else(folder: TrainingFolder, tmp_path: Path) -> None:
    out = tmp_path / "run"
    folder.run("state", out, "--validation", folder.validation, "--optim.lr", 0.05)
    assert {"state.pth", "config.json", "result.json"} <= {path.name for path in out.iterdir()}
    assert sorted(checkpointed(out)) == ["initial.layers.0", "initial.layers.1"]
    backbone = load_backbone(folder.model)
    trained, fresh = load_initial(out, backbone), InitialState(backbone)
    for after, before in zip(trained.layers, fresh.layers, strict=True):
        assert bool((after != before).any(1).all())  # the mean, and the weight
    assert losses(out)[-1] < losses(out)[0]
    # The metrics at the end are those of the file.
    model = load_model(folder.model)
    model.initial = trained
    assert_last_perplexity(folder, out, model)


def assert_last_perplexity(folder: TrainingFolder, out: Path, model: ProSG) -> None:
    metrics = json.loads((out / "result.json").read_text())["metrics"]
    rows = encode_rows(read_rows(folder.validation), load_tokenizer(folder.tokenizer))[0]
    assert metrics["eval_perplexity"] == pytest.approx(perplexity(model, rows).perplexity)


def test_validation_is_measured_and_logged(folder: TrainingFolder, whole_run: WholeRun) -> None:
    out = whole_run("finetune", "--recipe", "durable", "--validation", folder.validation, "--eval_steps", 3)
    metrics = json.loads((out / "result.json").read_text())["metrics"]
    names = ("perplexity", "sample_perplexity", "exact", "late_perplexity", "late_exact")
    assert all(f"eval_{name}" in metrics for name in names)
    assert_last_perplexity(folder, out, load_model(out / "model"))
    assert list(out.rglob("events.out.tfevents.*"))
    progress = json.loads((out / "progress.json").read_text())
    assert progress["share"] == 1.0 and "late_exact" in progress["note"]


def by_hand(model: ProSG, rows: list[EncodedRow], late_weight: float) -> float:
    """Weighted negative log-likelihood of the answers' tokens / number of answer tokens, row by row."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.prompt + row.answer])
        logits = model.backbone(ids).logits[0]
        for place, token in enumerate(row.answer):
            at = len(row.prompt) + place - 1  # the position that predicts it
            nll = -float(torch.log_softmax(logits[at].double(), 0)[token].detach())
            late = row.has_stages and place >= row.late_start
            again = any(start <= place < end for start, end in row.unscored)
            total += nll * (late_weight if late else 1.0) * (not again)
        count += len(row.answer) - sum(end - start for start, end in row.unscored)
    return total / count


@pytest.mark.parametrize("kind", ["staged", "without stages", "replayed"])
def test_the_loss_is_that_of_the_definition(
    folder: TrainingFolder, tmp_path: Path, train: Train, rows: list[EncodedRow], kind: str
) -> None:
    some = rows[:8]
    if kind == "without stages":
        plain = [{"prompt": r.prompt, "answer": r.answer, "note": 1} for r in read_rows(folder.train)[:8]]
        (tmp_path / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
        some = encode_rows(read_rows(tmp_path / "plain.jsonl"), load_tokenizer(folder.tokenizer))[0]
        assert not any(row.has_stages for row in some)
    if kind == "replayed":
        some = [replay_prompt(row) for row in some]
    # An update is zero before its first step, so the first loss is the backbone's own.
    train("synthesize", some, optim=Optimisation(steps=1, batch_size=8, late_weight=3.0))
    expected = by_hand(ProSG(load_backbone(folder.model)), some, 3.0)
    assert losses(tmp_path / "out")[0] == pytest.approx(expected, rel=1e-5)


def test_a_share_of_rows_is_replayed(folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[EncodedRow] = []

    def watch(model: Any, phase: Any, config: Any, rows: list[EncodedRow], *rest: Any) -> Any:
        seen.extend(rows)
        return fit(model, phase, config, rows, *rest)

    monkeypatch.setattr(prosg.training.fit, "fit", watch)
    folder.run("finetune", tmp_path / "run", "--replay", 0.5, "--optim.steps", 1)
    assert 10 <= sum(bool(row.unscored) for row in seen) <= 30  # of 40


def test_accumulation_changes_memory_and_not_the_loss(whole_run: WholeRun) -> None:
    durable = ("finetune", "--recipe", "durable")
    whole = losses(whole_run(*durable))
    for parts in (2, 4):
        assert losses(whole_run(*durable, "--optim.accumulation", parts)) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("phase", "recipe"), [("finetune", "durable"), ("synthesize", "plus")])
def test_checkpointing_repeats_the_run(whole_run: WholeRun, phase: str, recipe: str) -> None:
    recomputed = whole_run(phase, "--recipe", recipe, "--optim.checkpointing", "true")
    assert step_lines(recomputed) == step_lines(whole_run(phase, "--recipe", recipe))


def test_exploding_steps_are_skipped_and_counted(tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = ProSGTrainer.compute_loss
    before: dict[int, torch.Tensor] = {}

    def explode(self: ProSGTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        step = self.state.global_step
        before[step] = model.backbone.head.weight.detach().clone()
        return compute(self, model, inputs, *args, **kwargs) * {2: 1e6, 4: math.nan}.get(step, 1.0)

    monkeypatch.setattr(ProSGTrainer, "compute_loss", explode)
    train("finetune", optim=Optimisation(steps=7, batch_size=8, lr=1e-3, warmup_steps=0))
    assert [row["skipped"] for row in step_lines(tmp_path / "out")] == [0, 0, 1, 1, 2, 2, 2]
    moved = [not torch.equal(before[step], before[step + 1]) for step in range(6)]
    assert moved == [True, True, False, True, False, True]


@pytest.mark.parametrize(("options", "done"), [((), "left out"), (("--truncate", "true"), "cut to")])
def test_rows_that_are_too_long_are_counted(
    folder: TrainingFolder,
    tmp_path: Path,
    rows: list[EncodedRow],
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    done: str,
) -> None:
    limit = sorted(row.tokens for row in rows)[20]
    folder.run("finetune", tmp_path / "run", "--max_tokens", limit, *options, "--optim.steps", 1)
    too_long = sum(row.tokens > limit for row in rows)
    assert re.search(rf"{too_long} train rows {done}.* {limit} tokens", capsys.readouterr().err)


def test_rows_have_more_fields_than_training_needs(folder: TrainingFolder, tmp_path: Path, whole_run: WholeRun) -> None:
    rows = [row_to_dict(row) | {"source": "made", "rating": 3} for row in read_rows(folder.train)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder.run("finetune", tmp_path / "more", "--train", file, "--optim.steps", 1)
    assert losses(tmp_path / "more") == losses(whole_run("finetune"))[:1]


def test_chat_rows_train_as_what_their_template_makes_of_them(folder: TrainingFolder, tmp_path: Path) -> None:
    chat, plain = [], []
    for row in read_rows(folder.train):
        turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.answer}]
        chat.append({"id": row.id, "messages": turns})
        question, answer = (re.sub(r"\n+", "\n", text).strip() for text in (row.prompt, row.answer))
        plain.append({"id": row.id, "prompt": f"Question: {question}\n\nAnswer:", "answer": f" {answer}"})
    for name, rows in (("chat", chat), ("plain", plain)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = ("--optim.steps", 1)
    folder.run("finetune", tmp_path / "one", "--train", tmp_path / "chat.jsonl", "--template", "pile", *one)
    folder.run("finetune", tmp_path / "two", "--train", tmp_path / "plain.jsonl", *one)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
