"""The controls are proved to work: an update without prompt content is found out, one with it is confirmed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.evaluation.report.findings import FAR_TOKENS, findings
from prosg.evaluation.store import read_results
from prosg.model.prosg import ProSG
from support.evaluations import DEMO_BASE, results, run_here, write_config

NOISE = 0.01
"""of the modules' weights: the model still writes stories, and the update is not zero"""

FAR = 80
"""tokens from which controls are judged here: stories as long as they really have to be take a minute"""


def adapter(folder: Path, preset: str) -> str:
    """A module on the demo's backbone that was never trained: what it makes of a prompt says nothing of it."""
    base = load_model(DEMO_BASE)
    model = ProSG.from_scratch(base, preset)
    assert model.synthesizer is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.synthesizer.parameters():
            parameter += NOISE * torch.randn(parameter.shape, generator=generator)
    save_adapter(model, folder / preset)
    prompts = model.encode(torch.tensor([[5, 6, 7], [8, 9, 10]])).update
    assert prompts is not None
    same = all(torch.equal(delta.dense()[0], delta.dense()[1]) for delta in prompts.values())
    assert same == (preset == "static")
    return str(folder / preset)


def evaluate(folder: Path, models: dict[str, str], sentences: list[int], far: int = FAR_TOKENS) -> str:
    """What the report finds."""
    systems = {}
    for name, model in models.items():
        system = {"model": model, "memory": "update"}
        systems |= {name: system, f"{name}-other": {**system, "update": "other"}}
    curve = {"rows": 6, "sentences": sentences}
    file = write_config(folder, systems, measures=["curve"], curve=curve, data={"kinds": ["code"]})
    assert main(["eval", file]) == 0
    blocks = findings(read_results(folder / "out"), far_tokens=far)
    return "\n".join(block for block in blocks if isinstance(block, str))


def test_updates_with_and_without_content_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch)
    models = {"demo": "demo", **{name: adapter(tmp_path, name) for name in ("static", "plus")}}
    said = evaluate(tmp_path, models, [12], FAR)
    for name in ("static", "plus"):
        assert f'"{name}", its own update, at ' in said
        line = next(line for line in said.splitlines() if line.startswith(f'"{name}", its own update'))
        assert "within noise of another prompt's update." in line
        assert line.endswith("These controls show no prompt content in it.")
    line = next(line for line in said.splitlines() if line.startswith('"demo", its own update'))
    assert "better than another prompt's update." in line
    assert line.endswith("The update carries what the prompt said.")
    cells = {row["system"]: row for row in results(tmp_path / "out", kind="all")}
    assert all(row["distance_tokens"] > FAR for row in cells.values())
    assert cells["demo"]["late_accuracy"] == 1.0 and cells["demo-other"]["late_accuracy"] == 0.0
    assert cells["static"]["late_accuracy"] == cells["static-other"]["late_accuracy"]


def test_near_the_prompt_controls_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the state alone may hold it: any update would look as good."""
    run_here(monkeypatch)
    said = evaluate(tmp_path, {"demo": "demo"}, [1, 2])
    assert '"demo": no distance of 500 tokens or more was measured, so its controls are not judged' in said
    assert "carries what the prompt said" not in said
