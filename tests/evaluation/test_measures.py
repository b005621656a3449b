"""What an evaluation makes of answers, scores and cells, on runs whose every figure can be counted by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.data.row import Row, Stage
from prosg.evaluation.config import OverheadConfig, SystemConfig
from prosg.evaluation.overhead import overhead
from prosg.evaluation.report import report_sections
from prosg.evaluation.report.blocks import TableBlock
from prosg.evaluation.result_rows import result_rows
from prosg.evaluation.statistics import bootstrap_interval, compare, mean_of
from prosg.evaluation.systems.local import LocalSystem
from prosg.model.prosg import ProSG
from support.evaluations import NO_CODE, NO_STORY, RIGHT, code_row, finished, read
from support.models import WORDS, live_model, word_tokenizer

ROWS = [code_row(number) for number in range(1, 5)]
BARE: dict[str, Any] = {"model": "m", "label": "bare"}


def score(nll: float, tokens: int, late_nll: float, late_tokens: int) -> dict[str, Any]:
    late = {"late_nll": late_nll, "late_tokens": late_tokens, "late_exact": False}
    return {"nll": nll, "tokens": tokens, "exact": False, **late}


def table(config: Any, title: str, head: str = "") -> list[list[str]]:
    """A section's first table, or the one whose first line begins so."""
    blocks = next(section.blocks for section in report_sections(read(config)) if section.title == title)
    return next(b.table for b in blocks if isinstance(b, TableBlock) and b.table[0][0].startswith(head))


def words_of(config: Any, title: str = "What came out") -> str:
    blocks = next(section.blocks for section in report_sections(read(config)) if section.title == title)
    return "\n".join(block for block in blocks if isinstance(block, str))


# -- answers of free length


def test_accuracy_is_counted_by_stage(tmp_path: Path) -> None:
    # 1: all right; 2: a sentence too many; 3: no code; 4: neither marker nor code.
    config = finished(tmp_path, ROWS, {"bare": BARE}, {"bare": [RIGHT, NO_STORY, NO_CODE, "It was. It is."]})
    system = read(config).systems[0]
    assert system.verdicts["row-2"] == (False, True)
    assert system.right == {"row-1": 1.0, "row-2": 0.0, "row-3": 0.0, "row-4": 0.0}
    assert system.late == {"row-1": 1.0, "row-2": 1.0, "row-3": 0.0, "row-4": 0.0}
    assert system.stage(0) == {"row-1": 1.0, "row-2": 0.0, "row-3": 1.0, "row-4": 0.0}
    assert system.stage(1) == system.late and system.stage(2) == {}
    (row,) = result_rows(read(config))
    assert (row.n, row.accuracy, row.late_accuracy, row.undecided) == (4, 0.25, 0.5, 0)
    assert row.interval == (bootstrap_interval([1.0, 0.0, 0.0, 0.0])) and row.perplexity is None
    assert table(config, "Stages and late stages")[1] == [
        "bare", "-", ".50 [0, 1.0]", ".50 [0, 1.0]", ".50 [0, 1.0]",
    ]  # fmt: skip
    assert table(config, "Perplexity and accuracy")[1][:3] == ["bare", "-", ".25 [0, .75]"]


def test_a_single_stage_is_no_late_one(tmp_path: Path) -> None:
    row = Row("one", "Say a.", "a", "k", (Stage("say a", {"type": "exact", "text": "a"}, 0, ""),))
    system = read(finished(tmp_path, [row], {"bare": BARE}, {"bare": ["a"]})).systems[0]
    assert (system.right, system.late) == ({"one": 1.0}, {})


def test_perplexities_are_of_all_tokens_of_samples_and_of_late_ones(tmp_path: Path) -> None:
    scores = {"row-1": score(2.0, 4, 1.0, 2), "row-2": score(6.0, 2, 0.5, 1)}
    config = finished(tmp_path, ROWS[:2], {"bare": BARE}, {}, {"bare": {"perplexity": scores}})
    (row,) = result_rows(read(config))
    assert row.perplexity == pytest.approx(math.exp(8 / 6))
    assert row.sample_perplexity == pytest.approx((math.exp(0.5) + math.exp(3)) / 2)
    assert row.late_perplexity == pytest.approx(math.exp(1.5 / 3))
    assert row.n == 2 and row.accuracy is None
    assert read(config).systems[0].nats == {"row-1": 0.5, "row-2": 3.0}
    assert table(config, "Perplexity and accuracy")[1][1] == f"{math.exp(8 / 6):.3f}"


# -- cells


def cell(row: int, sentences: int, tokens: int, right: Sequence[bool], **more: Any) -> dict[str, Any]:
    kind = "code" if row < 3 else "names"
    return {"id": f"row-{row}", "kind": kind, "sentences": sentences, "text": "", "distance_tokens": tokens,
            "right": [*right], **more}  # fmt: skip


def test_cells_of_the_forgetting_curve(tmp_path: Path) -> None:
    near = [cell(1, 5, 40, (True, True)), cell(2, 5, 44, (False, True)), cell(3, 5, 48, (True, True))]
    far = [cell(1, 60, 500, (True, False)), cell(2, 60, 600, (True, True)), cell(3, 60, 610, (True, False))]
    config = finished(tmp_path, ROWS, {"bare": BARE}, {}, {"bare": {"curve": {"answers": near + far}}})
    rows = list(result_rows(read(config)))
    found = {(row.sentences, row.kind): row for row in rows}
    assert len(found) == 6 and all(row.measure == "curve" for row in rows)
    here = found[5, "all"]
    assert (here.distance_tokens, here.in_range, here.n) == (44, True, 3)
    assert here.accuracy == pytest.approx(2 / 3) and here.late_accuracy == 1.0
    there = found[60, "all"]
    assert (there.distance_tokens, there.in_range) == (570, False)
    assert there.late_accuracy == pytest.approx(1 / 3)
    assert there.late_interval == (bootstrap_interval([0.0, 1.0, 0.0]))
    assert (found[60, "code"].late_accuracy, found[60, "code"].n) == (0.5, 2)
    assert (found[60, "names"].late_accuracy, found[60, "names"].n) == (0.0, 1)
    assert table(config, "The forgetting curve")[0] == ["late stage right", "5 sentences", "60 sentences"]
    assert table(config, "The forgetting curve", "tokens")[1] == ["bare", "44", "570"]
    assert table(config, "The forgetting curve")[1] == ["bare", "1.0 [1.0, 1.0]", ".33 [0, 1.0]"]


def test_prompt_tokens_that_a_curve_reads_again_stand_beside_it(tmp_path: Path) -> None:
    systems = {"again": {"model": "m", "late_replay": True}, "bare": BARE}
    cells = [cell(row, n, 9 * n, (True, True), read_again=n + row) for n in (5, 60) for row in (1, 2)]
    parts = {"again": {"curve": {"answers": cells}}, "bare": {"curve": {"answers": [cell(1, 5, 40, (True, True))]}}}
    config = finished(tmp_path, ROWS, systems, {}, parts)
    blocks = next(
        section.blocks for section in report_sections(read(config)) if section.title == "The forgetting curve"
    )
    assert [b.table[1:] for b in blocks if isinstance(b, TableBlock)][2:] == [[["again", "6", "62"]]]


def test_cells_of_the_capacity_curve(tmp_path: Path) -> None:
    cells = [cell(row, 20, 180, (True, row + items < 8), items=items) for items in (4, 6) for row in (1, 2)]
    config = finished(tmp_path, ROWS, {"bare": BARE}, {}, {"bare": {"capacity": {"answers": cells}}})
    few, many = result_rows(read(config))
    assert (few.measure, few.items, few.n, few.late_accuracy) == ("capacity", 4, 2, 1.0)
    assert (many.items, many.late_accuracy, many.kind) == (6, 0.5, "code")
    assert table(config, "Capacity") == [
        ["late stage right", "4 items", "6 items"],
        ["bare", "1.0 [1.0, 1.0]", ".50 [0, 1.0]"],
    ]


# -- comparisons


def test_differences_are_paired_by_row() -> None:
    ours, theirs = {"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 0.0, "b": 1.0, "d": 1.0}
    mean = compare(ours, theirs)
    assert mean is not None and (mean.mean, mean.n) == (0.5, 2)
    assert (mean.low, mean.high) == bootstrap_interval([1.0, 0.0])
    assert compare(ours, {"z": 1.0}) is None and mean_of({}) is None


def test_better_only_where_every_seed_is(tmp_path: Path) -> None:
    rows = [code_row(number) for number in range(1, 9)]
    systems = {
        "base": {"model": "m", "label": "base"},
        "good-1": {"model": "g1", "label": "good", "seed": 1},
        "good-2": {"model": "g2", "label": "good", "seed": 2},
        "mixed-1": {"model": "x1", "label": "mixed", "seed": 1},
        "mixed-2": {"model": "x2", "label": "mixed", "seed": 2},
    }
    wrong, right, half = [NO_CODE] * 8, [RIGHT] * 8, [RIGHT] * 4 + [NO_CODE] * 4
    texts = {"base": wrong, "good-1": right, "good-2": half, "mixed-1": right, "mixed-2": wrong}
    config = finished(tmp_path, rows, systems, texts)
    beside = {line[0]: line[1:] for line in table(config, "What came out", "beside")}
    assert beside["good"][:2] == ["better", "better"] and beside["mixed"][:2] == ["=", "="]
    claims = {(line[0], line[1]): line for line in table(config, "Differences on the same prompts")}
    assert claims["good", "accuracy"][2:] == ["+1.000 [+1.000, +1.000] / +0.500 [+0.125, +0.875]", "better"]
    assert claims["mixed", "accuracy"][3] == "no clear difference"
    # Seeds stand apart, their mean before them.
    assert table(config, "Perplexity and accuracy")[2][:3] == ["good", "-", ".75 (1.0/.50)"]
    assert "One seed" not in words_of(config)
    assert [row.seed for row in result_rows(read(config))] == [0, 1, 2, 1, 2]


def test_seeds_are_compared_with_the_reference_of_their_seed(tmp_path: Path) -> None:
    rows = [code_row(number) for number in range(1, 9)]
    systems = {f"{name}-{seed}": {"model": name, "label": name, "seed": seed} for name in "ab" for seed in (1, 2)}
    wrong, right = [NO_CODE] * 8, [RIGHT] * 8
    config = finished(tmp_path, rows, systems, {"a-1": wrong, "a-2": right, "b-1": wrong, "b-2": right})
    claim = table(config, "Differences on the same prompts")[1]
    assert claim[2] == "+0.000 [+0.000, +0.000] / +0.000 [+0.000, +0.000]"


def test_worse_and_unmeasured(tmp_path: Path) -> None:
    rows = [code_row(number) for number in range(1, 9)]
    systems = {"a": {"model": "a"}, "b": {"model": "b"}, "c": {"model": "c"}}
    config = finished(tmp_path, rows, systems, {"a": [RIGHT] * 8, "b": [NO_CODE] * 8})
    beside = {line[0]: line[1] for line in table(config, "What came out", "beside")}
    assert beside["b"] == "worse" and beside["c"] == "-"
    assert "Not whole: c: accuracy are missing" in words_of(config)


# -- texts


def test_lengths_are_told_by_system(tmp_path: Path) -> None:
    config = finished(tmp_path, ROWS[:2], {"bare": BARE}, {"bare": ["a b c d a b c d", "one"]})
    assert table(config, "Length and repetition")[1] == ["bare", "10", "4", ".20", ".57", "1.0"]


# -- costs


@pytest.mark.parametrize("module", ["plus", None])
def test_overhead_counts_the_bytes_of_one_prompt(module: str | None) -> None:
    model = live_model("rwkv4", module, torch.float32)
    found = overhead(model, OverheadConfig(batch=3, tokens=5, steps=2, repeats=1))
    # Per layer two token shifts and three numbers of the recurrence, 12 wide, 4 bytes.
    assert found["state_bytes"] == 2 * (2 + 3) * 12 * 4
    assert found["parameters"] == sum(p.numel() for p in model.backbone.parameters())
    times = [found[key] for key in ("encode_ms", "token_ms", "encode_ms_update", "token_ms_update")]
    assert all(value > 0 for value in times[:2])
    if module is None:
        assert times[2:] == [None, None] and found["update_bytes"] is None and found["module_parameters"] is None
        return
    assert all(value > 0 for value in times[2:])
    update = model.encode(torch.ones(1, 4, dtype=torch.int64)).update
    assert update is not None
    assert found["update_bytes"] == sum(4 * (delta.a.numel() + delta.b.numel()) for delta in update.values())
    assert model.synthesizer is not None
    assert found["module_parameters"] == sum(p.numel() for p in model.synthesizer.parameters())


def test_factors_that_all_prompts_share_are_not_counted() -> None:
    model = live_model("rwkv4", "paper", torch.float32)  # B is learned, A is the prompt's
    found = overhead(model, OverheadConfig(batch=2, tokens=3, steps=1, repeats=1))
    update = model.encode(torch.ones(1, 4, dtype=torch.int64)).update
    assert update is not None
    assert found["update_bytes"] == sum(4 * delta.a.numel() for delta in update.values())


# -- perplexity against transformers' own loss

TEXTS = [("Tom saw a", "b c d red."), ("a", "Tom"), ("big! why? a b", "Names: a b c d then ab Code: c")]


def system_of(model: ProSG) -> LocalSystem:
    model.tokenizer = word_tokenizer()
    rows = [Row(f"row-{i}", prompt, answer, "k") for i, (prompt, answer) in enumerate(TEXTS)]
    return LocalSystem(SystemConfig(model="tiny"), model, rows, {}, 0)


def transformers_loss(theirs: Any, prompt: list[int], answer: list[int]) -> float:
    """The mean over the answer's tokens, the first predicted by the prompt's last logits."""
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.no_grad():
        return float(theirs(input_ids=torch.tensor([prompt + answer]), labels=labels).loss)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_perplexity_of_gpt2_is_that_of_transformers(batch_size: int) -> None:
    from prosg.backbones.hf.model import HFBackbone
    from support.hf_models import hf_model

    theirs = hf_model("gpt2", vocab=len(WORDS))
    compare_losses(system_of(ProSG(HFBackbone(theirs))), theirs, batch_size)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_perplexity_of_rwkv_is_that_of_transformers(batch_size: int, tmp_path: Path) -> None:
    from transformers import RwkvForCausalLM

    from prosg.checkpoints.backbone import save_backbone

    model = live_model("rwkv4", None, torch.float32, vocab=len(WORDS))
    save_backbone(model.backbone, tmp_path / "tiny")  # type: ignore[arg-type]
    theirs = RwkvForCausalLM.from_pretrained(tmp_path / "tiny").eval()
    compare_losses(system_of(model), theirs, batch_size)


def compare_losses(system: LocalSystem, theirs: Any, batch_size: int) -> None:
    for row, ours in zip(system.encoded_rows, system.scores(batch_size), strict=True):
        assert row.answer[-1] == 0 and ours.tokens == len(row.answer)
        assert ours.nll / ours.tokens == pytest.approx(transformers_loss(theirs, row.prompt, row.answer), rel=1e-5)
