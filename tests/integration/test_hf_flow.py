"""Models of transformers through the whole product: both phases of training, files, and the command line."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.backbone import convert, load_backbone, save_backbone
from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.fingerprints import backbone_fingerprint, checkpoint_fingerprint
from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.core.update import LowRank
from prosg.data.encode import EncodedRow
from prosg.data.row import write_rows
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.model.config import PRESETS, ProSGConfig
from prosg.model.prosg import ProSG
from prosg.tokenizers.bpe import train_bpe
from prosg.training.config import Optimisation, Perturbation, TrainConfig
from prosg.training.perturbation import Draws, Perturber
from prosg.training.setup import check
from prosg.utils.io import CheckpointError
from support.hf_models import DISTINCT, HYBRIDS, hf_backbone, hf_model
from support.models import assert_near, live_model, tokens
from support.two_passes import touch

BATCH = 3
PROMPT_LENGTHS, ANSWER_LENGTHS = torch.tensor([5, 3, 7]), torch.tensor([6, 1, 4])
NO_LOAD = ("--perturbation.load", "0", "--perturbation.load_story", "0")

types = pytest.mark.parametrize("name", DISTINCT)


def hf_prosg(name: str, preset: str = "plus", seed: int = 0) -> ProSG:
    """A model whose update is as large as its weights."""
    model = ProSG(hf_backbone(name), PRESETS[preset], seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.synthesizer.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def batch() -> dict[str, Tensor]:
    answer = tokens(BATCH, 6, seed=2)
    scored = torch.arange(6) < ANSWER_LENGTHS.unsqueeze(1)
    return {
        "prompt": tokens(BATCH, 7, seed=1),
        "prompt_lengths": PROMPT_LENGTHS,
        "answer": answer,
        "answer_lengths": ANSWER_LENGTHS,
        "weights": scored.float(),
    }


def draws(swap: list[bool], wipe: list[bool]) -> Draws:
    untouched = touch(BATCH)
    rows = torch.zeros(BATCH, dtype=torch.int64)
    no = torch.zeros(BATCH, dtype=torch.bool)
    return Draws(torch.tensor(swap), torch.tensor(wipe), untouched, untouched, rows, no, rows)


# -- a step of training


@pytest.mark.parametrize("module", ["plus", "static", None])
@pytest.mark.parametrize("perturbed", [False, True])
def test_one_call_equals_two(module: str | None, perturbed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients of a backbone that can do both."""
    results = []
    for continues in (True, False):
        model = live_model("rwkv4", module)
        if module is not None:
            model.backbone.requires_grad_(False)
        monkeypatch.setattr(type(model.backbone), "continues", continues)
        drawn = draws([False, True, True], [True, False, False]) if perturbed else None
        scored = model(**batch(), perturber=None if drawn is None else Perturber(drawn, None))
        scored.loss.backward()
        results.append((scored, [p.grad for p in model.parameters() if p.grad is not None]))
    (two, theirs), (one, ours) = results
    assert_near(one.loss, two.loss, 1e-10)
    assert_near(one.nll, two.nll, 1e-10)
    assert torch.equal(one.hits, two.hits)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a, b, 1e-8)


@types
def test_a_step_scores_what_the_state_would(name: str) -> None:
    """The loss of training in one call, against reading on from the state, kept, wiped or another prompt's."""
    model, rows = hf_prosg(name), batch()
    model.backbone.requires_grad_(False)
    scored = model(**rows, perturber=Perturber(draws([False, True, True], [True, False, True]), None))
    scored.loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.synthesizer.parameters())
    assert float(model.synthesizer.layers[0].queries.grad.abs().max()) > 0
    encoded = model.encode(rows["prompt"], rows["prompt_lengths"])
    for site, delta in encoded.update.items():
        assert_near(scored.encoded.update[site].dense(), delta.dense(), 1e-4)
    wiped = model.backbone.init_state(1)
    for row, state in ((0, wiped), (1, encoded.take(torch.tensor([2])).state), (2, wiped)):
        own = encoded.take(torch.tensor([row])).replace(state=state)
        nll, _ = model.score(own, rows["answer"][row : row + 1], rows["answer_lengths"][row : row + 1])
        assert_near(scored.nll[row : row + 1, : nll.shape[1]].detach(), nll, 1e-4)


@types
def test_encoding_is_one_call_and_windows_are_read_from_the_start(name: str) -> None:
    model, prompt = hf_prosg(name), tokens(BATCH, 9, seed=3)
    lengths = torch.tensor([9, 4, 6])
    whole, chunked = model.encode(prompt, lengths), model.encode(prompt, lengths, chunk=2)
    windows = model.encode(prompt, lengths, window=4)
    assert_near(chunked.logits, whole.logits, 1e-5)
    for row, length in enumerate(lengths.tolist()):
        alone = model.encode(prompt[row : row + 1, :length])
        assert_near(whole.logits[row : row + 1], alone.logits, 1e-4)
        windowed = model.encode(prompt[row : row + 1, :length], window=4)
        for site in whole.update:
            assert_near(whole.update[site].dense()[row], alone.update[site].dense()[0], 1e-4)
            assert_near(windows.update[site].dense()[row], windowed.update[site].dense()[0], 1e-4)


def test_what_its_memory_cannot_bear_is_refused_before_training(tmp_path: Path) -> None:
    model = hf_prosg("mamba")
    rows = [EncodedRow(0, "a", [1, 2], [3, 4, 0], 1, False, 1)]
    for options, said in (
        ({"load": 0.5, "load_story": 0.5}, "perturbation.load and perturbation.load_story must be 0"),
        ({"age": 0.1}, "perturbation.age must be 0"),
        ({"cut": 0.1}, "perturbation.cut must be 0"),
    ):
        config = TrainConfig("m", "t", str(tmp_path), perturbation=Perturbation(**options))
        with pytest.raises(ValueError, match=f"{said} for a backbone of type mamba.* wipe, swap"):
            check(model, "synthesize", config, rows, [])
    allowed = Perturbation(wipe_first=0.9, wipe_last=0.1, swap=0.2)
    check(model, "synthesize", TrainConfig("m", "t", str(tmp_path), perturbation=allowed), rows, [])


# -- files


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched: a connection is an error, though the environment allows it."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@types
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path, offline: None) -> None:
    backbone, x = hf_backbone(name), tokens(BATCH, 6)
    save_backbone(backbone, tmp_path / "model")
    again = load_backbone(tmp_path / "model")
    assert isinstance(again, HFBackbone)
    assert again.sites == backbone.sites
    assert backbone_fingerprint(again) == backbone_fingerprint(backbone) == checkpoint_fingerprint(tmp_path / "model")
    assert backbone_fingerprint(hf_backbone(name, seed=1)) != backbone_fingerprint(backbone)
    with torch.no_grad():
        assert_near(again(x).logits, backbone(x).logits, 1e-6)  # experts' weights lie otherwise in memory
    half = load_backbone(tmp_path / "model", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert backbone_fingerprint(half) != backbone_fingerprint(backbone)
    with pytest.raises(FileExistsError, match="model: exists"):
        save_backbone(backbone, tmp_path / "model")
    save_backbone(backbone, tmp_path / "model", overwrite=True)


@types
def test_an_encoded_prompt_is_a_file(name: str, tmp_path: Path) -> None:
    model = hf_prosg(name)
    encoded = model.encode(tokens(BATCH, 7, seed=1), PROMPT_LENGTHS)
    save_encoded(encoded, tmp_path / "e.safetensors", model)
    again = load_encoded(tmp_path / "e.safetensors", model)
    x = tokens(BATCH, 2, seed=4)
    with torch.no_grad():
        one = model.backbone(x, encoded.state, update=encoded.update)
        two = model.backbone(x, again.state, update=again.update)
    assert_near(one.logits, two.logits, 1e-5)


def test_an_adapter_knows_the_projections_of_a_type_that_no_table_has(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("gpt_neox", vocab_size=23, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"model_type is 'gpt_neox'; supported: 'rwkv' .* where target_modules"):
        load_backbone(tmp_path / "base")
    names = ("query_key_value", "attention.dense")
    module = ProSGConfig.from_preset("plus", target_modules=names)
    model = ProSG(load_backbone(tmp_path / "base", target_modules=names), module)
    assert model.prosg_config.target_modules == ("query_key_value", "attention_dense")
    save_adapter(model, tmp_path / "adapter", base="../base")
    again = load_model(tmp_path / "adapter")
    assert again.backbone.sites == model.backbone.sites
    prompt = tokens(1, 5)
    for site, delta in model.encode(prompt).update.items():
        assert isinstance(delta, LowRank)
        assert torch.equal(delta.dense(), again.encode(prompt).update[site].dense())


def test_folders_that_cannot_be_loaded_are_refused_in_one_line(tmp_path: Path, offline: None) -> None:
    good = tmp_path / "good"
    hf_model("gpt2").save_pretrained(good)
    weights, config = load_file(good / "model.safetensors"), json.loads((good / "config.json").read_text())

    def refused(said: str, changes: dict[str, Any], tensors: dict[str, Tensor] | bytes | None) -> None:
        folder = tmp_path / "bad"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        if isinstance(tensors, bytes):
            (folder / "model.safetensors").write_bytes(tensors)
        elif tensors is None:
            (folder / "model.safetensors").unlink(missing_ok=True)
        else:
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=said) as caught:
            load_backbone(folder)
        assert "\n" not in str(caught.value)

    less = {name: tensor for name, tensor in weights.items() if "h.1.attn.c_attn" not in name}
    refused("missing tensors: transformer.h.1.attn.c_attn.bias, transformer.h.1.attn.c_attn.weight", {}, less)
    refused("bad: .*(mismatched tensors|size mismatch|mismatch)", {"n_embd": 24}, weights)
    refused("model.safetensors: truncated, or not a safetensors", {}, (good / "model.safetensors").read_bytes()[:200])
    refused("transformers cannot load it: .*no file named", {}, None)
    refused("model_type is 'unheard'", {"model_type": "unheard"}, weights)
    with pytest.raises(ValueError, match="kernel is 'c', but .* run by transformers"):
        load_backbone(good, kernel="c")


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path, offline: None) -> None:
    hf_model("gpt2").save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "own.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nC = M = None\n")
    load_backbone(tmp_path / "m")
    config["model_type"] = "own"
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        load_backbone(tmp_path / "m", target_modules=["c_attn"])
    assert not (tmp_path / "executed").exists()


def test_there_is_no_other_layout(tmp_path: Path) -> None:
    hf_model("gpt2").save_pretrained(tmp_path / "m")
    train_bpe(["one two"], 260).save(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"x.pth: a model of type gpt2 is a folder of transformers"):
        convert(tmp_path / "m", tmp_path / "x.pth")
    convert(tmp_path / "m", tmp_path / "narrow", torch.bfloat16)
    assert (tmp_path / "narrow" / "tokenizer.json").is_file()
    assert {t.dtype for t in load_file(tmp_path / "narrow" / "model.safetensors").values()} == {torch.bfloat16}


def test_native_backbones_load_without_transformers(tmp_path: Path) -> None:
    save_backbone(live_model("rwkv4", None).backbone, tmp_path / "m")
    code = f"import sys, prosg; prosg.load_model({str(tmp_path / 'm')!r}); sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the command line


def make_shop(name: str, folder: Path) -> tuple[Path, list[str]]:
    rows = make_rows(DEMO_KINDS, 24, 0, "train", sentences=(0, 0))
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "validation.jsonl", make_rows(DEMO_KINDS, 4, 0, "validation", sentences=(0, 0)))
    tokenizer = train_bpe([text for row in rows for text in (row.prompt, row.answer)], 300)
    hf_model(name, vocab=300).save_pretrained(folder / "start")
    tokenizer.save(folder / "start")
    data = ["--train", str(folder / "train.jsonl"), "--validation", str(folder / "validation.jsonl")]
    few = {"steps": 2, "batch_size": 4, "lr": 1e-3, "warmup_steps": 1}
    assert set(few) <= set(vars(Optimisation()))
    options = [part for option, value in few.items() for part in (f"--optim.{option}", str(value))]
    return folder, [*data, *options, "--eval_steps", "2", "--device", "cpu"]


@types
def test_every_command_does_its_work(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, common = make_shop(name, tmp_path)

    def said(*command: str) -> str:
        capsys.readouterr()
        assert main([*command]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    start, tuned, module = str(folder / "start"), str(folder / "tuned"), str(folder / "module")
    said("train", "finetune", "--model", start, "--output", tuned, *common)
    assert checkpoint_fingerprint(folder / "tuned" / "model") != checkpoint_fingerprint(folder / "start")
    can_load = name in HYBRIDS
    if not can_load:
        assert main(["train", "synthesize", "--model", tuned, "--output", module, *common]) == 2
        assert "perturbation.load and perturbation.load_story must be 0" in capsys.readouterr().err
        assert not Path(module).exists()
    said("train", "synthesize", "--model", tuned, "--output", module, *common, *(() if can_load else NO_LOAD))
    assert checkpoint_fingerprint(folder / "tuned" / "model") == backbone_fingerprint(load_model(module).backbone)

    encoded = str(folder / "hello.safetensors")
    said("encode", module, "--prompt", "Read the code.", "--out", encoded)
    writing = ("--max-tokens", "6", "--seed", "3")
    written = said("generate", module, "--prompt", "Read the code.", *writing)
    assert written.strip() and written == said("generate", module, "--encoded", encoded, *writing)
    scores = json.loads(said("perplexity", module, str(folder / "validation.jsonl")))
    assert scores["rows"] == 4 and 1 < scores["perplexity"] < 1e4
    described = said("info", module)
    assert described.split()[:2] == ["type", name]
    assert "vocab_size" in described and "preset plus" in described


def test_a_forgetting_curve_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, common = make_shop("mamba2", tmp_path)
    module = str(folder / "module")
    assert main(["train", "synthesize", "--model", str(folder / "start"), "--output", module, *common, *NO_LOAD]) == 0
    out = folder / "curve.json"
    command = [
        "curve",
        module,
        "--out",
        str(out),
        "--rows",
        "2",
        "--kinds",
        "code",
        "--no-free",
        "--sentences",
        "1",
        "2",
        "--updates",
        "own,other,wiped",
    ]
    assert main(command) == 0, capsys.readouterr().err
    rows = json.loads(out.read_text())["rows"]
    assert {(row["update"], row["state"]) for row in rows} == {("own", "kept"), ("other", "kept"), ("own", "wiped")}
