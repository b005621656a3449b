"""The examples: each is run, with the packaged demo model, and does what its first lines say."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.gguf_model import export_gguf_model
from prosg.checkpoints.load import load_model
from prosg.inspection.info import describe
from prosg.inspection.updates import prompt_attention
from prosg.model.prosg import ProSG

NEEDS = {"anchor_llama_cpp": ("gguf", "llama_cpp")}
"""Packages without which an example is not run."""
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that a test is parametrized with, as a module."""
    for package in NEEDS.get(request.param, ()):
        pytest.importorskip(package)
    spec = importlib.util.spec_from_file_location(request.param, EXAMPLES / f"{request.param}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, request.param, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["encode", "train_by_hand", "own_synthesizer", "batch_serving"])
def test_help_begins_nothing(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert f"python examples/{name}.py" in capsys.readouterr().out


@pytest.mark.parametrize("example", ["encode"], indirect=True)
def test_updates_carry_their_prompts(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = example.main(tmp_path)
    code, place = "Code: 57488348", "End: In the church lay the ball and the sword."
    assert [line for name, line in lines.items() if name.endswith("code's update")] == [code] * 3
    assert [line for name, line in lines.items() if name.endswith("place's update")] == [place] * 3
    assert {path.name for path in tmp_path.iterdir()} == {"code.safetensors", "place.safetensors"}
    assert len(capsys.readouterr().out.splitlines()) == len(lines)


@pytest.mark.parametrize("example", ["train_by_hand"], indirect=True)
def test_a_loop_by_hand_trains(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "ROWS", 16)
    model, losses = example.train(12, batch_size=4)
    assert sum(losses[-4:]) < sum(losses[:4])
    base = load_model("demo").backbone.state_dict()
    assert all(torch.equal(value, base[name]) for name, value in model.backbone.state_dict().items())
    assert isinstance(model.generate("Tell a story.", max_tokens=4), str)


@pytest.mark.parametrize("example", ["own_synthesizer"], indirect=True)
def test_a_synthesizer_of_ones_own(example: Any, tmp_path: Path) -> None:
    model, losses = example.train(6, batch_size=4)
    assert losses[-1] < losses[0]
    prompts = ["Tell a story.", "The code is 6660626. Tell a story, then give the code."]
    whole, parts = model.encode(prompts), model.encode(prompts, chunk=3)
    for site, delta in whole.update.items():
        torch.testing.assert_close(delta.a, parts.update[site].a)
    alone = model.encode(prompts[:1])
    torch.testing.assert_close(alone.update[site].a, whole.update[site].a[:1])
    assert model.generate(whole, max_tokens=4) == model.generate(parts, max_tokens=4)
    save_encoded(whole, tmp_path / "x.safetensors", model)
    assert load_encoded(tmp_path / "x.safetensors", model).batch == 2
    assert model.memory == "update" and model.prosg_config is None
    assert dict(describe(model))["type"] == "rwkv4"
    assert prompt_attention(model, *model.tokenise(prompts)) is None
    with pytest.raises(ValueError, match="MeanSynthesizer is not the package's Synthesizer"):
        save_adapter(model, tmp_path / "adapter")


@pytest.mark.parametrize("example", ["batch_serving"], indirect=True)
def test_a_row_of_a_batch_writes_what_it_writes_alone(example: Any) -> None:
    answers = example.main()
    assert [*answers] != [*example.PROMPTS]  # they end in another order than they came
    model = load_model("demo")
    for seed, prompt in enumerate(example.PROMPTS):
        assert [answers[prompt]] == model.generate([prompt], memory="both", max_tokens=80, seed=seed)


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="the notebook needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="the notebook needs nbclient and ipykernel")
    import nbformat

    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel draws into the notebook
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert (EXAMPLES / "tour.ipynb").stat().st_size < 50_000


@pytest.mark.parametrize("example", ["anchor_llama_cpp"], indirect=True)
def test_the_anchor_in_llama_cpp_is_ours(example: Any, tmp_path: Path) -> None:
    backbone = RWKV7(RWKV7Config(vocab_size=50, hidden_size=64, num_layers=2))
    backbone.reset_parameters(torch.Generator().manual_seed(0))
    model = ProSG(backbone)
    export_gguf_model(model, tmp_path / "model.gguf")
    llm = example.llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=256, n_threads=1, verbose=False)
    prompt = torch.randint(1, 50, (1, 20), generator=torch.Generator().manual_seed(1))
    encoded = model.encode(prompt, memory="anchor", tau=10.0)
    written = list(example.write(llm, prompt[0].tolist(), count=40, tau=10.0))
    assert len(written) == 40
    theirs = torch.from_numpy(example.read(llm.ctx, [7]))
    with torch.no_grad():
        ours = backbone(torch.tensor([[*written, 7]]), encoded.state, anchor=encoded.anchor).logits[0, -1]
        plain = backbone(torch.tensor([[*written, 7]]), encoded.state).logits[0, -1]
    assert (theirs - ours).abs().max() < 1e-3 * ours.abs().max()
    assert (plain - ours).abs().max() > 1e-2 * ours.abs().max()
