"""Training: what trains, on which loss, and that a run may be killed at any moment."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import prosg.training.precision
import prosg.training.run
import prosg.training.trainer
from prosg.backbones.rwkv4 import RWKV4
from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.initial_state import STATE_FILE, load_initial
from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.data.collate import collate
from prosg.data.encode import EncodedRow, encode_rows, replay_prompt
from prosg.data.row import read_rows, row_to_dict
from prosg.data.sampler import StepBatches
from prosg.model.config import ProSGConfig
from prosg.model.initial_state import InitialState
from prosg.model.prosg import ProSG
from prosg.model.scoring import perplexity
from prosg.tokenizers.files import load_tokenizer
from prosg.training.callbacks import Stop
from prosg.training.config import Optimisation, Perturbation, StopRule, TrainConfig
from prosg.training.trainer import ProSGTrainer, complete_checkpoints, fit
from support.training_folder import Workshop, losses, make_workshop, steps


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("workshop"))


def encoded(shop: Workshop, file: Path | None = None) -> list[EncodedRow]:
    return encode_rows(read_rows(file or shop.train), load_tokenizer(shop.tokenizer))[0]


def weights(output: Path) -> dict[str, torch.Tensor]:
    if (output / STATE_FILE).exists():
        states: dict[str, torch.Tensor] = torch.load(output / STATE_FILE, weights_only=True)
        return states
    made = output / "model" / "model.safetensors"
    return load_file(made if made.exists() else output / "adapter" / "prosg_model.safetensors")


def counters(output: Path) -> dict[str, float]:
    kept: dict[str, float] = json.loads((complete_checkpoints(output)[-1] / "counters.json").read_text())
    return {name: value for name, value in kept.items() if name != "seconds"}


def bank(output: Path) -> dict[str, torch.Tensor]:
    return load_file(complete_checkpoints(output)[-1] / "bank.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """Every step's loss and gradient norm, the counters, the bank and the weights, to the last bit."""
    assert steps(one) == steps(other)
    assert counters(one) == counters(other)
    for part in (weights, bank):
        ours, theirs = part(one), part(other)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- killed at any moment


class Moment:
    """The n-th call of a function: there the process ends by SIGKILL."""

    def __init__(self, owner: Any, name: str, nth: int = 1) -> None:
        self.owner, self.name, self.left = owner, name, nth

    def arm(self) -> None:
        original: Callable[..., Any] = getattr(self.owner, self.name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(self.owner, self.name, dying)


def killed(command: list[str], moment: Moment) -> None:
    """Run a command in a forked process that is killed at this moment."""
    child = os.fork()
    if child == 0:
        moment.arm()
        try:
            main(command)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it ended before the moment came"


def between_steps() -> Moment:
    return Moment(ProSGTrainer, "_clip_grad_norm", 5)


def inside_a_checkpoint() -> Moment:
    """The weights are written, the optimiser's state is not."""
    return Moment(ProSGTrainer, "_save_optimizer_and_scheduler", 1)


def before_the_rename() -> Moment:
    return Moment(Path, "rename", 1)


def while_old_ones_go() -> Moment:
    return Moment(prosg.train, "complete_checkpoints", 2)  # the first call looks for where to go on


def before_the_result() -> Moment:
    return Moment(prosg.commands, "write_json", 1)


MIXED = ("--perturbation.swap", 0.5)
RUNS = {
    "finetune, plain": ("finetune", "--recipe", "plain"),
    "finetune, durable": ("finetune", "--recipe", "durable"),
    "finetune, durable, accumulated": ("finetune", "--recipe", "durable", "--optim.accumulation", 2),
    "synthesize, paper, swapped": ("synthesize", "--recipe", "paper", *MIXED),
    "synthesize, plus": ("synthesize", "--recipe", "plus", *MIXED),
    "synthesize, plus, accumulated": ("synthesize", "--recipe", "plus", "--optim.accumulation", 2),
    "static, durable": ("static", "--recipe", "static-durable"),
    "state": ("state",),
    "state, wiped and loaded": ("state", "--perturbation.wipe_first", 0.5, "--perturbation.load", 0.5),
}


@pytest.mark.parametrize("run", RUNS)
def test_killed_twice_a_run_repeats_an_uninterrupted_one(shop: Workshop, tmp_path: Path, run: str) -> None:
    phase, *options = RUNS[run]
    command = shop.command(phase, tmp_path / "killed", *options)
    killed(command, between_steps())
    killed(command, inside_a_checkpoint())  # the next one after what was complete
    assert main(command) == 0
    shop.run(phase, tmp_path / "whole", *options)
    assert len(steps(tmp_path / "whole")) == 8
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("phase", "recipe", "writer"), [("finetune", "durable", "save_backbone"), ("synthesize", "plus", "save_adapter")]
)
def test_killed_at_every_kind_of_moment(shop: Workshop, tmp_path: Path, phase: str, recipe: str, writer: str) -> None:
    command = shop.command(phase, tmp_path / "killed", "--recipe", recipe, "--validation", shop.validation)
    for moment in (
        inside_a_checkpoint(),  # the very first: nothing is complete yet
        before_the_rename(),
        while_old_ones_go(),
        between_steps(),
        Moment(prosg.commands, writer),  # trained, but neither model nor result written
        Moment(prosg.commands, "write_json", 1),  # all but the result
    ):
        killed(command, moment)
        assert not (tmp_path / "killed" / "result.json").exists()
    assert main(command) == 0
    shop.run(phase, tmp_path / "whole", "--recipe", recipe, "--validation", shop.validation)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("killed", "whole")]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before the moment came"
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize(("phase", "recipe"), [("finetune", "durable"), ("synthesize", "plus")])
def test_a_process_of_its_own_may_be_killed(shop: Workshop, tmp_path: Path, phase: str, recipe: str) -> None:
    out = tmp_path / "killed"
    options = ("--recipe", recipe, "--optim.steps", 20)
    command = shop.command(phase, out, *options)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "prosg", *command], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: (out / prosg.train.STAGING / "checkpoint-9").exists(), process)
    process.kill()
    process.wait()
    assert main(command) == 0
    shop.run(phase, tmp_path / "whole", *options)
    assert_same_run(out, tmp_path / "whole")


def test_a_half_written_checkpoint_is_passed_over(shop: Workshop, tmp_path: Path) -> None:
    command = shop.command("finetune", tmp_path / "killed")
    killed(command, between_steps())
    junk = tmp_path / "killed" / prosg.train.STAGING / "checkpoint-6"
    junk.mkdir(parents=True, exist_ok=True)
    (junk / "weights.safetensors").write_bytes(b"\0" * 9)
    with (tmp_path / "killed" / "steps.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a line cut by the kill
    assert main(command) == 0
    shop.run("finetune", tmp_path / "whole")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_finished_run_is_not_run_again(
    shop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.run("finetune", tmp_path / "run")
    monkeypatch.setattr(prosg.train, "fit", None)
    shop.run("finetune", tmp_path / "run")
    assert "already trained" in capsys.readouterr().err


def test_the_two_newest_checkpoints_are_kept(shop: Workshop, tmp_path: Path) -> None:
    shop.run("finetune", tmp_path / "run", "--save_steps", 2)
    assert [path.name for path in complete_checkpoints(tmp_path / "run")] == ["checkpoint-6", "checkpoint-8"]
    assert not any((tmp_path / "run").rglob("*.tmp"))


def test_what_was_stopped_early_takes_no_further_step(shop: Workshop, tmp_path: Path) -> None:
    stop = ("--stop.metric", "perplexity", "--stop.value", 1e9, "--stop.times", 2, "--eval_steps", 2)
    command = shop.command("synthesize", tmp_path / "killed", "--validation", shop.validation, *stop)
    killed(command, Moment(prosg.commands, "save_adapter"))
    assert main(command) == 0
    assert len(steps(tmp_path / "killed")) == 4
    result = json.loads((tmp_path / "killed" / "result.json").read_text())
    assert result["reached"] is True and result["steps"] == 4
    shop.run("synthesize", tmp_path / "whole", "--validation", shop.validation, *stop)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


# -- what trains


@pytest.fixture
def trained(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ProSG]:
    """Train through `fit` and return the model itself."""

    def run(phase: str, rows: list[EncodedRow] | None = None, **options: Any) -> ProSG:
        backbone = load_backbone(shop.model)
        preset = {"synthesize": "plus", "static": "static"}.get(phase)
        model = ProSG(backbone, preset and ProSGConfig.from_preset(preset), seed=0)
        optim = options.pop("optim", Optimisation(steps=3, batch_size=8, lr=1e-3, warmup_steps=0))
        config = TrainConfig(str(shop.model), [str(shop.train)], str(tmp_path / "out"), optim=optim, **options)
        fit(model, phase, config, rows or encoded(shop), [])
        return model

    return run


@pytest.mark.parametrize("phase", ["synthesize", "static"])
def test_the_backbone_stays_as_it_was(
    shop: Workshop, tmp_path: Path, trained: Callable[..., ProSG], phase: str
) -> None:
    prompts: list[bool] = []
    forward = RWKV4.forward

    def watch(self: RWKV4, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("logits") == "last":  # the prompt's pass
            prompts.append(torch.is_grad_enabled())
        return forward(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RWKV4, "forward", watch)
        model = trained(phase, perturbation=Perturbation(wipe_first=0.5, load=0.5, load_story=0.5))
    before = load_backbone(shop.model).state_dict()
    after = model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    assert prompts and not any(prompts)
    assert model.synthesizer is not None
    fresh = ProSG(load_backbone(shop.model), model.prosg_config, seed=0).synthesizer
    assert fresh is not None
    assert any(not torch.equal(a, b) for a, b in zip(model.synthesizer.parameters(), fresh.parameters(), strict=True))
    saved = load_file(complete_checkpoints(tmp_path / "out")[-1] / "weights.safetensors")
    assert saved and all(name.startswith("synthesizer.") for name in saved)


def test_state_tuning_trains_one_state_and_nothing_else(shop: Workshop, tmp_path: Path) -> None:
    shop.run("state", tmp_path / "run", "--validation", shop.validation, "--optim.lr", 0.05)
    names = [path.name for path in (tmp_path / "run").iterdir() if path.is_file()]
    assert {"state.pth", "config.json", "result.json"} <= set(names)
    saved = load_file(complete_checkpoints(tmp_path / "run")[-1] / "weights.safetensors")
    assert sorted(saved) == ["initial.layers.0", "initial.layers.1"]
    backbone = load_backbone(shop.model)
    trained, fresh = load_initial(tmp_path / "run", backbone), InitialState(backbone)
    for after, before in zip(trained.layers, fresh.layers, strict=True):
        assert bool((after != before).any(1).all())  # the mean, and the weight
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]
    # What was measured at the end is what the file gives.
    model = load_model(shop.model)
    model.initial = trained
    measured = perplexity(model, encoded(shop, shop.validation))
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert metrics["eval_perplexity"] == pytest.approx(measured.perplexity)


def test_phase_1_trains_everything(shop: Workshop, trained: Callable[..., ProSG]) -> None:
    after = trained("finetune").backbone.state_dict()
    before = load_backbone(shop.model).state_dict()
    # Layer 0's pre-norm and every matrix: nothing is left where it was.
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_an_adapter_folder_holds_the_module_alone(shop: Workshop, tmp_path: Path) -> None:
    shop.run("synthesize", tmp_path / "run")
    adapter = tmp_path / "run" / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == [
        "prosg_config.json",
        "prosg_model.safetensors",
        "tokenizer.json",
    ]
    model = load_model(adapter)
    assert model.synthesizer is not None
    count = sum(p.numel() for p in model.synthesizer.parameters())
    assert sum(t.numel() for t in load_file(adapter / "prosg_model.safetensors").values()) == count
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(("phase", "module"), [("finetune", "plus"), ("synthesize", None)])
def test_a_phase_that_does_not_fit_the_model_is_refused(shop: Workshop, phase: str, module: str | None) -> None:
    model = ProSG(load_backbone(shop.model), module and ProSGConfig.from_preset(module))
    config = TrainConfig("", ["x"], "never")
    with pytest.raises(ValueError, match=f"phase {phase} needs a model"):
        fit(model, phase, config, encoded(shop), [])
    with pytest.raises(ValueError, match="no rows"):
        fit(model, "synthesize" if module else "finetune", config, [], [])
    if module is None:
        with pytest.raises(ValueError, match="phase state needs a model with an initial state"):
            fit(model, "state", config, encoded(shop), [])
        model.initial = InitialState(model.backbone)
        with pytest.raises(ValueError, match="phase finetune needs a model without an initial state"):
            fit(model, "finetune", config, encoded(shop), [])
    assert not Path("never").exists()


# -- the loss


def by_hand(model: ProSG, rows: list[EncodedRow], late_weight: float) -> float:
    """measuring: weighted negative log-likelihood of the answers' tokens / number of answer tokens, row by row."""
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


@pytest.mark.parametrize("what", ["staged", "plain rows", "replayed"])
def test_the_loss_is_that_of_the_definition(
    shop: Workshop, tmp_path: Path, trained: Callable[..., ProSG], what: str
) -> None:
    rows = encoded(shop)[:8]
    if what == "plain rows":
        plain = [{"prompt": r.prompt, "answer": r.answer, "note": 1} for r in read_rows(shop.train)[:8]]
        file = tmp_path / "plain.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in plain))
        rows = encoded(shop, file)
        assert not any(row.has_stages for row in rows)
    if what == "replayed":
        rows = [replay_prompt(row) for row in rows]
    # An update is zero before its first step, so the first loss is the backbone's own.
    trained("synthesize", rows, optim=Optimisation(steps=1, batch_size=8, late_weight=3.0))
    expected = by_hand(ProSG(load_backbone(shop.model)), rows, 3.0)
    assert losses(tmp_path / "out")[0] == pytest.approx(expected, rel=1e-5)


def test_replayed_prompts_have_no_weight(shop: Workshop) -> None:
    row = encoded(shop)[0]
    batch = collate([replay_prompt(row)], late_weight=3.0)
    start, size = row.late_start, len(row.prompt)
    assert batch["answer"][0, start : start + size].tolist() == row.prompt
    assert batch["weights"][0].tolist() == [1.0] * start + [0.0] * size + [3.0] * (len(row.answer) - start)


def test_a_share_of_rows_is_replayed(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[EncodedRow] = []
    original = prosg.train.fit

    def watch(model: Any, phase: Any, config: Any, rows: list[EncodedRow], *rest: Any) -> Any:
        seen.extend(rows)
        return original(model, phase, config, rows, *rest)

    monkeypatch.setattr(prosg.train, "fit", watch)
    shop.run("finetune", tmp_path / "run", "--replay", 0.5, "--optim.steps", 1)
    again = sum(bool(row.unscored) for row in seen)
    assert 10 <= again <= 30  # of 40


@pytest.mark.parametrize("recipe", ["plain", "durable"])
def test_accumulation_changes_memory_and_not_the_loss(shop: Workshop, tmp_path: Path, recipe: str) -> None:
    for parts in (1, 2, 4):
        shop.run("finetune", tmp_path / str(parts), "--recipe", recipe, "--optim.accumulation", parts)
    for parts in (2, 4):
        assert losses(tmp_path / str(parts)) == pytest.approx(losses(tmp_path / "1"), rel=1e-5)


def test_exploding_steps_are_skipped_and_counted(
    shop: Workshop, tmp_path: Path, trained: Callable[..., ProSG], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = ProSGTrainer.compute_loss
    before: dict[int, torch.Tensor] = {}

    def explode(self: ProSGTrainer, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        step = self.state.global_step
        before[step] = model.backbone.head.weight.detach().clone()
        return compute(self, model, inputs, *args, **kwargs) * {2: 1e6, 4: math.nan}.get(step, 1.0)

    monkeypatch.setattr(ProSGTrainer, "compute_loss", explode)
    trained("finetune", optim=Optimisation(steps=7, batch_size=8, lr=1e-3, warmup_steps=0))
    assert [row["skipped"] for row in steps(tmp_path / "out")] == [0, 0, 1, 1, 2, 2, 2]
    moved = [not torch.equal(before[step], before[step + 1]) for step in range(6)]
    assert moved == [True, True, False, True, False, True]


# -- batches


def step_rows(batches: StepBatches, parts: int) -> list[list[int]]:
    flat = list(batches)
    assert len(flat) == len(batches)
    return [list(chain(*flat[start : start + parts])) for start in range(0, len(flat), parts)]


def test_a_steps_rows_do_not_depend_on_accumulation() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(103)]
    whole = step_rows(StepBatches(lengths, 8, 1, 30, seed=3), 1)
    assert step_rows(StepBatches(lengths, 8, 4, 30, seed=3), 4) == whole
    assert {len(rows) for rows in whole} == {8}
    epoch = list(chain(*whole[:12]))  # 12 full batches; the 7 rows that are left wait for another epoch's shuffle
    assert len(set(epoch)) == len(epoch)
    assert step_rows(StepBatches(lengths, 8, 1, 30, seed=4), 1) != whole


def test_rows_of_like_lengths_come_together() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(400)]
    spread = [
        max(lengths[i] for i in rows) - min(lengths[i] for i in rows) for rows in StepBatches(lengths, 8, 1, 50, 0)
    ]
    assert max(spread) <= 2


def test_few_rows_make_one_smaller_batch() -> None:
    assert sorted(step_rows(StepBatches([3, 1, 2], 32, 2, 2, seed=0), 2)[1]) == [0, 1, 2]


# -- validation, stopping, precision, logs


def test_validation_is_measured_and_logged(shop: Workshop, tmp_path: Path) -> None:
    shop.run("finetune", tmp_path / "run", "--validation", shop.validation, "--eval_steps", 3)
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    names = ("perplexity", "sample_perplexity", "exact", "late_perplexity", "late_exact")
    assert all(f"eval_{name}" in metrics for name in names)
    measured = perplexity(load_model(tmp_path / "run" / "model"), encoded(shop, shop.validation))
    assert metrics["eval_perplexity"] == pytest.approx(measured.perplexity)  # the last evaluation is the result's
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
    told = json.loads((tmp_path / "run" / "progress.json").read_text())
    assert told["share"] == 1.0 and "late_exact" in told["note"]


HISTORIES = [
    pytest.param(StopRule("exact", 0.9, times=2), [0.95, 0.5, 0.95, 0.91], True, True, id="twice in a row"),
    pytest.param(StopRule("exact", 0.9, times=2), [0.95, 0.5, 0.95], False, False, id="not twice in a row"),
    pytest.param(StopRule("perplexity", 2.0, times=1), [3.0, 1.9], True, True, id="less is better"),
    pytest.param(StopRule("exact", patience=2), [0.5, 0.4, 0.5], True, False, id="nothing better for two"),
    pytest.param(StopRule("perplexity", patience=2), [5.0, 4.0, 3.0], False, False, id="still better"),
    pytest.param(StopRule(), [1.0, 1.0, 1.0], False, False, id="no rule"),
]


@pytest.mark.parametrize(("rule", "values", "ended", "reached"), HISTORIES)
def test_stop_rules(rule: StopRule, values: list[float], ended: bool, reached: bool) -> None:
    history = [{"loss": 1.0}, *({f"eval_{rule.metric}": value} for value in values)]
    stop = Stop(rule)
    assert stop.ended(history) is ended
    assert stop.reached(history) is reached


def test_patience_ends_a_run(shop: Workshop, tmp_path: Path) -> None:
    patience = ("--stop.metric", "exact", "--stop.patience", 2, "--eval_steps", 1)
    shop.run("finetune", tmp_path / "run", "--validation", shop.validation, *patience)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 3 and result["reached"] is None


def test_bf16_is_autocast_over_fp32_weights(shop: Workshop, tmp_path: Path) -> None:
    shop.run("finetune", tmp_path / "bf16", "--dtype", "bf16")
    shop.run("finetune", tmp_path / "fp32", "--dtype", "fp32")
    assert {t.dtype for t in weights(tmp_path / "bf16").values()} == {torch.float32}
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=1e-2)


def test_a_probed_type_is_kept(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prosg.precision, "probe_dtype", lambda _: "bf16")
    command = shop.command("finetune", tmp_path / "run", "--dtype", "auto")
    killed(command, between_steps())
    monkeypatch.setattr(prosg.precision, "probe_dtype", lambda _: "fp32")
    assert main(command) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["dtype"] == "bf16"


def test_rows_that_are_too_long_are_left_out_and_counted(
    shop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = sorted(row.tokens for row in encoded(shop))
    shop.run("finetune", tmp_path / "run", "--max_tokens", lengths[20], "--optim.steps", 1)
    left_out = sum(length > lengths[20] for length in lengths)
    assert f"{left_out} train rows left out" in capsys.readouterr().err


def test_rows_have_more_fields_than_training_needs(shop: Workshop, tmp_path: Path) -> None:
    rows = [row_to_dict(row) | {"source": "made", "rating": 3} for row in read_rows(shop.train)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shop.run("finetune", tmp_path / "more", "--train", file)
    shop.run("finetune", tmp_path / "run")
    assert losses(tmp_path / "more") == losses(tmp_path / "run")


def test_chat_rows_train_as_what_their_template_makes_of_them(shop: Workshop, tmp_path: Path) -> None:
    chat, plain = [], []
    for row in read_rows(shop.train):
        turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.answer}]
        chat.append({"id": row.id, "messages": turns})
        question, answer = (re.sub(r"\n+", "\n", text).strip() for text in (row.prompt, row.answer))
        plain.append({"id": row.id, "prompt": f"Question: {question}\n\nAnswer:", "answer": f" {answer}"})
    for name, rows in (("chat", chat), ("plain", plain)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shop.run("finetune", tmp_path / "one", "--train", tmp_path / "chat.jsonl", "--template", "pile")
    shop.run("finetune", tmp_path / "two", "--train", tmp_path / "plain.jsonl")
    assert losses(tmp_path / "one") == losses(tmp_path / "two")


def test_rows_are_cut_where_it_is_asked_for(shop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = sorted(row.tokens for row in encoded(shop))[20]
    shop.run("finetune", tmp_path / "run", "--max_tokens", few, "--truncate", "true", "--optim.steps", 1)
    assert f"train rows cut to {few} tokens" in capsys.readouterr().err


def test_a_run_goes_on_under_a_version_with_more_options(shop: Workshop, tmp_path: Path) -> None:
    command = shop.command("finetune", tmp_path / "run")
    killed(command, between_steps())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["template"], config["optim"]["clip"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="template changed"):
        prosg.commands.train("finetune", replace(config_of(command), template="pile"))
    assert main(command) == 0


def config_of(command: list[str]) -> TrainConfig:
    caught: list[TrainConfig] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prosg.commands, "train", lambda _, config, dry_run: caught.append(config) or 0)
        main(command)
    return caught[0]


@pytest.mark.parametrize(("phase", "recipe"), [("finetune", "durable"), ("synthesize", "plus")])
def test_checkpointing_repeats_the_run(shop: Workshop, tmp_path: Path, phase: str, recipe: str) -> None:
    for value in ("true", "false"):
        shop.run(phase, tmp_path / value, "--recipe", recipe, "--optim.checkpointing", value)
    assert steps(tmp_path / "true") == steps(tmp_path / "false")
