"""The whole path through public commands: data -> tokenizer -> two phases -> evaluation -> generation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.fingerprints import checkpoint_fingerprint
from prosg.cli import main
from prosg.data.row import read_rows
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.world import VOCABULARY_NAME


def run(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    capsys.readouterr()
    assert main([str(part) for part in command]) == 0
    return capsys.readouterr().out


def test_a_world_model_is_trained_without_naming_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = RWKV4(RWKV4Config(vocab_size=65536, hidden_size=8, num_layers=1))
    model.reset_parameters(torch.Generator().manual_seed(0))
    save_backbone(model, "start.pth")
    flags = ("--prompt", "Grüße, 你好", "--max-tokens", "8", "--temperature", "1")
    assert main(["generate", "start.pth", *flags]) == 0
    told, said = capsys.readouterr()
    assert said == (
        "tokenizer: World (picked by the vocabulary size 65536; another with --tokenizer)\n"
        "template: world, by its tokenizer (another with --template)\n"
    )
    assert run(capsys, "generate", "start.pth", *flags, "--tokenizer", "world") == told != "\n"
    assert "65530 tokens" in run(capsys, "info", "start.pth")

    run(capsys, "data", "make", "train.jsonl", "--size", 4, "--sentences", 0, 1)
    few = ("--train", "train.jsonl", "--optim.steps", 2, "--optim.batch_size", 2, "--optim.warmup_steps", 1)
    run(capsys, "train", "finetune", *few, "--model", "start.pth", "--output", "tuned")
    assert Path("tuned/model", VOCABULARY_NAME).is_file()
    run(capsys, "train", "synthesize", *few, "--model", "tuned/model", "--output", "memory")
    parts = {"prosg_config.json", "prosg_model.safetensors", "chat_template.jinja"}
    assert {path.name for path in Path("memory/adapter").iterdir()} == parts
    assert main(["generate", "memory/adapter", *flags]) == 0
    told, said = capsys.readouterr()
    assert told != "\n" and said == ""
    assert "perplexity" in run(capsys, "perplexity", "memory", "train.jsonl", "--tokenizer", "world")
    measure = ("--rows", 2, "--sentences", 1, "--updates", "own,none", "--kinds", "code", "--no-free")
    run(capsys, "curve", "memory", *measure, "--out", "curve.json")


def test_from_data_to_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(capsys, "data", "make", "train.jsonl", "--size", 48, "--sentences", 0, 1)
    run(capsys, "data", "make", "validation.jsonl", "--size", 12, "--sentences", 0, 1, "--split", "validation")
    assert "1.0000" in run(capsys, "data", "check", "train.jsonl")

    rows = read_rows("train.jsonl")
    tokenizer = train_bpe([text for row in rows for text in (row.prompt, row.answer)], 320)
    start = RWKV4(RWKV4Config(vocab_size=320, hidden_size=24, num_layers=2))
    start.reset_parameters(torch.Generator().manual_seed(0))
    save_backbone(start, "start", tokenizer=tokenizer.save("."))

    Path("train.yaml").write_text(
        "train: train.jsonl\nvalidation: validation.jsonl\noptim: {steps: 30, batch_size: 8}\n"
    )
    common = ("--config", "train.yaml", "--optim.lr", 0.01, "--optim.warmup_steps", 5)
    run(capsys, "train", "finetune", *common, "--model", "start", "--output", "phase1", "--recipe", "durable")
    before = json.loads(run(capsys, "perplexity", "start", "validation.jsonl"))
    phase1 = json.loads(run(capsys, "perplexity", "phase1/model", "validation.jsonl"))
    assert phase1["perplexity"] < 0.5 * before["perplexity"]
    assert phase1["tokens"] == before["tokens"]

    frozen = checkpoint_fingerprint("phase1/model")
    run(capsys, "train", "synthesize", *common, "--model", "phase1/model", "--output", "plus", "--recipe", "plus")
    assert checkpoint_fingerprint("phase1/model") == frozen
    own = json.loads(run(capsys, "perplexity", "plus/adapter", "validation.jsonl"))
    without = json.loads(run(capsys, "perplexity", "plus/adapter", "validation.jsonl", "--no-update"))
    assert without == pytest.approx(phase1)
    assert own["perplexity"] != without["perplexity"]

    measure = ("--rows", 6, "--sentences", 1, 3, "--split", "validation", "--out", "curves/plus.json")
    run(capsys, "curve", "plus/adapter", *measure)
    measured = json.loads(Path("curves/plus.json").read_text())
    cells = [row for row in measured["rows"] if row["kind"] == "all"]
    assert {(cell["update"], cell["state"]) for cell in cells} == {
        ("own", "kept"), ("other", "kept"), ("mean", "kept"), ("own", "wiped"),
    }  # fmt: skip
    assert all(cell["n"] == 6 and 0 <= cell["late_accuracy"] <= 1 for cell in cells)

    prompt = rows[0].prompt
    run(capsys, "encode", "plus/adapter", "--prompt", prompt, "--out", "prompt.safetensors")
    flags = ("--max-tokens", 20, "--seed", 1)
    told = run(capsys, "generate", "plus/adapter", "--prompt", prompt, *flags)
    assert run(capsys, "generate", "plus/adapter", "--encoded", "prompt.safetensors", *flags) == told
    run(capsys, "convert", "phase1/model", "phase1.pth")
    assert run(capsys, "generate", "plus/adapter", "--base", "phase1.pth", "--prompt", prompt, *flags) == told

    answers = [{"id": row.id, "answer": row.answer if i else "wrong"} for i, row in enumerate(rows)]
    Path("answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    assert main(["data", "check", "train.jsonl", "--answers", "answers.jsonl"]) == 1
