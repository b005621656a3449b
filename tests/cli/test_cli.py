"""The command line: what it prints, and that bad input is one line with the cure, status 2, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.backbones.rwkv4 import RWKV4
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.initial_state import save_initial
from prosg.checkpoints.load import load_model
from prosg.cli import COMMANDS, main
from prosg.model.initial_state import InitialState
from prosg.tokenizers.bpe import train_bpe
from support.training_folder import SIZE, TrainingFolder, make_training_folder

ROWS = '{"prompt": "Say a word.", "answer": "Tree."}\n'


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    """With an adapter, an encoded prompt, and every kind of bad file."""
    folder = tmp_path_factory.mktemp("workshop")
    shop = make_training_folder(folder)
    shop.run("synthesize", folder / "run", "--optim.steps", 2)
    (folder / "run" / "adapter").rename(folder / "plus")
    config = json.loads((folder / "plus" / "prosg_config.json").read_text())
    config["base"] = "../start"
    (folder / "plus" / "prosg_config.json").write_text(json.dumps(config))
    assert main(["encode", str(folder / "plus"), "--prompt", "Hello.", "--out", str(folder / "hello.safetensors")]) == 0

    other = RWKV4(SIZE)
    other.reset_parameters(torch.Generator().manual_seed(5))
    save_backbone(other, folder / "other", tokenizer=shop.tokenizer)
    save_backbone(other, folder / "alone" / "x.pth")
    save_backbone(RWKV4(replace(SIZE, vocab_size=50277)), folder / "alone" / "pile.pth")
    (folder / "cut.txt").write_text("1 'a' 1\n2 'b' 1\n3 'c'")
    whole = (folder / "alone" / "x.pth").read_bytes()
    (folder / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"emb.weight": Code(folder / "executed")}, folder / "code.pth")
    signs = {"v5": "ln_x.weight", "v6": "time_maa_x"}
    for version, sign in signs.items():
        torch.save({"emb.weight": torch.zeros(9, 4), f"blocks.0.att.{sign}": torch.zeros(4)}, folder / f"{version}.pth")
    (folder / "many").mkdir()
    words = ["".join(chr(97 + i // 26**place % 26) for place in range(3)) for i in range(0, 26**3, 7)]
    train_bpe(words, SIZE.vocab_size + 50, min_frequency=1).save(folder / "many")

    (folder / "bad.jsonl").write_text(ROWS + '{"prompt": "Say"\n')
    (folder / "blank.jsonl").write_text(ROWS + '{"prompt": "", "answer": "Tree."}\n')
    turns = [{"role": role, "content": "Tree."} for role in ("user", "user", "assistant")]
    (folder / "order.jsonl").write_text(ROWS + json.dumps({"messages": turns}) + "\n")
    (folder / "chat.jsonl").write_text(ROWS + json.dumps({"messages": turns[1:]}) + "\n")
    (folder / "none.jsonl").write_text("\n")
    (folder / "cut.safetensors").write_bytes((folder / "hello.safetensors").read_bytes()[:900])
    (folder / "unknown.yaml").write_text("recipe: plain\noptim:\n  stepz: 3\n")
    (folder / "dotted.yaml").write_text("optim.stepz: 3\n")
    (folder / "top.yaml").write_text("recipees: plain\n")
    (folder / "word.yaml").write_text("optim:\n  steps: many\n")
    (folder / "broken.yaml").write_text("optim: [\n")
    (folder / "list.yaml").write_text("- optim\n")
    odd = {f"blocks.{i}.att.time_state": torch.zeros(4, 4, 4) for i in range(2)}
    torch.save(odd, folder / "odd.pth")
    (folder / "full").mkdir()
    (folder / "full" / "note.txt").write_text("mine")
    return shop


@pytest.fixture
def here(shop: TrainingFolder, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shop.folder)
    return shop.folder


def status(command: list[str]) -> int:
    try:
        return main(command)
    except SystemExit as end:
        return int(end.code or 0)


def contents(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in sorted(folder.rglob("*"))}


Refused = Callable[..., None]


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The command ends with status 2 and one line on stderr that has these words; no file is made or changed."""

    def check(command: list[str], *words: str) -> None:
        before = contents(here)
        capsys.readouterr()
        assert status(command) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
        for word in words:
            assert word in err
        assert contents(here) == before

    return check


def case(command: str, *words: str, more: tuple[str, ...] = ()) -> Any:
    return pytest.param([*command.split(), *more], words, id=" ".join([command, *more])[:70])


GENERATE = "generate plus --prompt x --max-tokens 3"
TRAIN = "train finetune --model start --train train.jsonl --output made"
MODULE = "train synthesize --model start --train train.jsonl --output made"

BAD_MODELS = [
    case("info nowhere", "nowhere", "no such file or folder"),
    case("info truncated.pth", "truncated.pth", "truncated"),
    case("info code.pth", "code.pth", "code"),
    case("info v5.pth", "RWKV-5", "supported: rwkv4"),
    case("info v6.pth", "RWKV-6", "supported: rwkv4"),
    case("info train.jsonl", "not a PyTorch checkpoint"),
    case("info full", "no weights", "model.safetensors"),
    case("generate start --prompt x --tokenizer many", "350 tokens", "300"),
    case("generate start --prompt x --tokenizer full", "no tokenizer.json"),
    case("generate start --prompt x --tokenizer world", "65530 tokens", "300"),
    case("generate alone/pile.pth --prompt x", "alone/pile.pth", "--tokenizer 20B_tokenizer.json"),
    case("generate start --prompt x --tokenizer train.jsonl", "train.jsonl", "not a"),
    case("generate start --prompt x --tokenizer cut.txt", "cut.txt, line 3", "like: 65 '@' 1"),
    case("generate start --prompt x --tokenizer nowhere", "nowhere", "no tokenizer.json", "world"),
    case("generate alone/x.pth --prompt x", "alone/x.pth", "--tokenizer"),
    case("perplexity alone/x.pth train.jsonl", "--tokenizer"),
    case("encode alone/x.pth --prompt x --out e.safetensors", "--tokenizer"),
    case("generate plus --base other --prompt x", "another backbone", "--base"),
    case("generate plus --base nowhere --prompt x", "nowhere", "no such"),
    case("generate start --base other --prompt x", "not an adapter"),
    case(f"{GENERATE} --dtype fp8", "fp8", "fp32, bf16, fp16, fp64"),
    case(f"{GENERATE} --device tpu", "tpu", "cpu, cuda"),
    case(f"{GENERATE} --kernel fast", "fast", "auto, scan, torch, c"),
    case("info start --kernel fast", "fast", "auto, scan, torch, c"),
]

BAD_PROMPTS = [
    case("generate plus", "empty", more=("--prompt", "")),
    case("encode plus --out e.safetensors", "empty", more=("--prompt", "")),
    case("generate plus", "--prompt", "UTF-8", more=("--prompt", "a\udcff")),
    case("generate plus", "--prompt", "--encoded"),
    case("generate plus --prompt x --encoded hello.safetensors", "either"),
    case("generate start --encoded hello.safetensors", "hello.safetensors", "another model", "encode"),
    case("generate plus --encoded cut.safetensors", "cut.safetensors", "truncated"),
    case("generate plus --encoded nowhere.safetensors", "no such file"),
    case("generate plus --encoded start/model.safetensors", "prosg encode"),
    case(f"{GENERATE} --template alpaca", "'alpaca'", "none, world, pile, raven"),
    case(f"{GENERATE} --temperature -1", "temperature is -1.0"),
    case(f"{GENERATE} --temperature hot", "temperature", "hot", "float"),
    case(f"{GENERATE} --top-p 0", "top_p is 0.0"),
    case(f"{GENERATE} --top-k -1", "top_k is -1"),
    case(f"{GENERATE} --window 0", "window is 0"),
    case(f"{GENERATE} --hold-until 2", "force_marker"),
    case(f"{GENERATE} --nonsense", "--nonsense"),
    case("generate plus --prompt x --max-tokens 0", "max_tokens is 0"),
    case(GENERATE, "stop string is empty", more=("--stop", "")),
]

BAD_TRAINING = [
    case(f"{TRAIN} --config unknown.yaml", "unknown.yaml", "optim.stepz", "known are steps, batch_size"),
    case(f"{TRAIN} --config dotted.yaml", "dotted.yaml", "optim.stepz"),
    case(f"{TRAIN} --config top.yaml", "top.yaml", "recipees", "known are model"),
    case(f"{TRAIN} --config word.yaml", "optim.steps", "many", "int"),
    case(f"{TRAIN} --config broken.yaml", "broken.yaml", "not YAML"),
    case(f"{TRAIN} --config list.yaml", "list.yaml", "list"),
    case(f"{TRAIN} --config nowhere.yaml", "nowhere.yaml", "No such file"),
    case(f"{TRAIN} --optim.stepz 3", "--optim.stepz"),
    case(f"{TRAIN} --optim.steps many", "optim.steps", "many", "int"),
    case(f"{TRAIN} --optim.steps 0", "optim.steps is 0"),
    case(f"{TRAIN} --optim.accumulation 3", "batch_size 32", "accumulation 3"),
    case(f"{TRAIN} --optim.lr 0", "optim.lr"),
    case(f"{TRAIN} --optim.beta1 1", "optim.beta1"),
    case(f"{TRAIN} --optim.clip -1", "optim.clip"),
    case(f"{TRAIN} --recipe plus", "'plus'", "plain, durable"),
    case(f"{TRAIN} --recipe nonsense", "'nonsense'", "plain, durable"),
    case(f"{MODULE} --recipe plain", "'plain'", "paper, plus"),
    case(f"{TRAIN} --dtype fp8", "dtype", "fp8", "'bf16'"),
    case(f"{TRAIN} --device tpu", "device", "tpu", "'cuda'"),
    case(f"{TRAIN} --save_steps 0", "save_steps is 0"),
    case(f"{TRAIN} --threads -1", "threads is -1"),
    case(f"{TRAIN} --seed -1", "seed is -1"),
    case(f"{TRAIN} --replay 2", "replay is 2.0"),
    case(f"{TRAIN} --stop.times 1", "--validation"),
    case(f"{TRAIN} --stop.metric nonsense", "stop.metric", "late_exact"),
    case(f"{TRAIN} --stop.times 1 --validation rows.jsonl", "late_exact", "stages"),
    case(f"{TRAIN} --train bad.jsonl", "bad.jsonl:2", "not JSON"),
    case(f"{TRAIN} --train blank.jsonl", "blank.jsonl:2", "'prompt' is empty"),
    case(f"{TRAIN} --train order.jsonl", "order.jsonl:2", "message 2 is the user's", "allowed"),
    case(f"{TRAIN} --train chat.jsonl", "chat.jsonl", "--template world, pile, raven"),
    case(f"{TRAIN} --template vicuna", "template is 'vicuna'", "none, world, pile, raven"),
    case(f"{TRAIN} --truncate true", "truncate", "max_tokens", "at least 2"),
    case(f"{TRAIN} --train none.jsonl", "none.jsonl", "no rows"),
    case(f"{TRAIN} --train nowhere.jsonl", "nowhere.jsonl", "No such file"),
    case(f"{TRAIN} --model nowhere", "nowhere", "no such file or folder"),
    case(f"{TRAIN} --model alone/x.pth", "--tokenizer"),
    case(f"{TRAIN} --model plus", "adapter already"),
    case(f"{TRAIN} --output train.jsonl", "train.jsonl", "--output"),
    case(f"{MODULE} --module.rank 0", "module.rank is 0"),
    case(f"{MODULE} --module.reading nonsense", "module.reading", "attention"),
    case(f"{MODULE} --module.target_modules [gate]", "gate", "receptance"),
    case("train state --model start --train train.jsonl --output made --recipe static", "'static'", "allowed: state"),
    case("train state --model start --train train.jsonl --output made --module.rank 2", "--module.rank"),
    case(f"{MODULE} --perturbation.load 2", "perturbation.load is 2.0"),
    case("train finetune --model start", "required", "train", "output"),
]

BAD_FILES = [
    case("encode plus --prompt x --out nowhere/e.safetensors", "no folder nowhere"),
    case("encode plus --prompt x --out full", "full", "is a folder"),
    case("encode plus --prompt x --out train.jsonl/e.safetensors", "no folder train.jsonl"),
    case("encode plus --prompt x --out /proc/e.safetensors", "/proc/e.safetensors", "cannot be written"),
    case("encode plus --prompt x", "required", "out"),
    case("perplexity start bad.jsonl", "bad.jsonl:2"),
    case("perplexity start blank.jsonl", "blank.jsonl:2"),
    case("perplexity start chat.jsonl", "chat.jsonl", "--template"),
    case("perplexity start chat.jsonl --template alpaca", "'alpaca'", "world"),
    case("perplexity start train.jsonl --batch-size 0", "--batch-size is 0"),
    case("convert start other", "exists", "--overwrite"),
    case("convert start full --overwrite", "full", "not replaced"),
    case("convert start x.bin", ".bin", ".pth"),
    case("convert nowhere x", "nowhere", "no such file"),
    case("convert start x --dtype fp9", "fp9", "fp32"),
    case("convert start /proc/x", "/proc/x", "cannot be written"),
    case("data make x.jsonl --kinds nonsense", "nonsense", "allowed: ending"),
    case("data make x.jsonl --size 0", "size is 0"),
    case("data make x.jsonl --split nonsense", "train, validation, test"),
    case("data make x.jsonl --distance 1 2 --sentences 1 2", "--distance or --sentences"),
    case("data make /proc/x.jsonl --size 1", "/proc"),
    case("data check bad.jsonl", "bad.jsonl:2"),
    case("data check nowhere.jsonl", "nowhere.jsonl"),
    case("data check train.jsonl --answers validation.jsonl", "validation.jsonl:1", "no row has the id"),
    case("curve start --out x.json --kinds nonsense", "nonsense", "allowed: ending"),
    case("curve start --out x.json --rows 0", "size is 0"),
    case("curve start --out x.json --updates own", "no module"),
    case("curve plus --out x.json --updates mine", "mine", "own, other, mean, none, wiped"),
    case("curve plus --out full", "full", "is a folder"),
    case("generate start --prompt x --state nowhere", "nowhere", "no such file"),
    case("perplexity start train.jsonl --state alone/x.pth", "alone/x.pth", "no learned initial states", "time_state"),
    case("encode start --prompt x --out e.safetensors --state odd.pth", "odd.pth", "(4, 4, 4), expected (2, 16)"),
    case("curve start --out x.json --state full", "full/state.pth", "no such file"),
    case("generate plus --encoded hello.safetensors --state odd.pth", "--state begins a prompt", "encode it"),
    case("info odd.pth", "odd.pth", "holds learned initial states"),
    case("demo --seeds one", "'one'", "1,2,3"),
    case("nonsense", "nonsense", "generate"),
    case("train nonsense", "nonsense", "finetune"),
    case("train", "finetune"),
    case("data", "make"),
]


@pytest.mark.parametrize(("command", "words"), BAD_MODELS)
def test_a_model_that_cannot_be_used(refused: Refused, here: Path, command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)
    assert not (here / "executed").exists()


@pytest.mark.parametrize(("command", "words"), BAD_PROMPTS)
def test_a_prompt_or_a_choice_that_cannot_be(refused: Refused, command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


@pytest.mark.parametrize(("command", "words"), BAD_TRAINING)
def test_a_training_that_cannot_begin(refused: Refused, here: Path, command: list[str], words: tuple[str, ...]) -> None:
    (here / "rows.jsonl").write_text(ROWS)
    refused(command, *words)


@pytest.mark.parametrize(("command", "words"), BAD_FILES)
def test_a_file_that_cannot_be_read_or_written(refused: Refused, command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", [f"{GENERATE} --device cuda", f"{TRAIN} --device cuda", "info start --device cuda"])
def test_cuda_where_there_is_none(refused: Refused, command: str) -> None:
    refused(command.split(), "no CUDA device", "--device cpu")


def test_another_configuration_in_the_same_folder(shop: TrainingFolder, refused: Refused) -> None:
    command = shop.command("synthesize", shop.folder / "run", "--optim.steps", 2)
    assert main(command) == 0  # the same: nothing to do
    assert main([*command, "--log_steps", "7"]) == 0  # changes nothing of the result
    refused([*command, "--optim.steps", "3"], "another configuration", "optim", "--output")


def test_a_refused_command_may_be_corrected(
    shop: TrainingFolder, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that was refused stands in its way."""
    once = ("--optim.steps", 1)
    assert status(shop.command("finetune", tmp_path / "run", *once, "--train", "bad.jsonl")) == 2
    assert status(shop.command("finetune", tmp_path / "run", *once)) == 0


@pytest.mark.parametrize("command", ["", *COMMANDS, "train", "data"])
def test_help_everywhere(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: prosg")
    assert len(out.splitlines()) > 5


def test_help_tells_every_option_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["train", "synthesize", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--config", "--module.rank", "--perturbation.load_story", "--optim.skip_above", "--stop.patience"):
        assert option in out
    assert "Rank n of the update" in out


# -- configuration: file, recipe, command line


def written(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "config.json").read_text())
    return content


def test_the_command_line_goes_over_the_file_and_the_file_over_the_recipe(shop: TrainingFolder, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {shop.model}\ntrain: [{shop.train}]\nrecipe: paper\n"
        "module:\n  rank: 3\noptim:\n  steps: 2\n  batch_size: 4\n  lr: 0.5\nperturbation:\n  swap: 0.25\n"
    )
    command = ["train", "synthesize", "--config", str(config), "--output", str(tmp_path / "run"), "--optim.lr", "0.001"]
    assert main(command) == 0
    settings = written(tmp_path / "run")
    assert settings["module"]["reading"] == "last"  # of the recipe
    assert settings["module"]["rank"] == 3 and settings["optim"]["steps"] == 2  # of the file
    assert settings["perturbation"]["swap"] == 0.25
    assert settings["optim"]["lr"] == 0.001  # of the command line
    assert settings["optim"]["late_weight"] == 1.0


def test_a_recipe_on_the_command_line_goes_over_the_files(shop: TrainingFolder, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("recipe: paper\noptim:\n  steps: 1\n")
    shop.run("synthesize", tmp_path / "run", "--config", config, "--recipe=plus", "--optim.steps", 1)
    assert written(tmp_path / "run")["module"]["reading"] == "attention"


CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    "config",
    sorted(file for file in CONFIGS.glob("*.yaml") if file.name not in ("eval.yaml", "judge.yaml", "musi.yaml")),
    ids=lambda p: p.name,
)
def test_the_configurations_that_ship_are_understood(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They get as far as looking for the model that they name."""
    phase = "finetune" if "recipe: plain" in config.read_text() or "recipe: durable" in config.read_text() else None
    phases = [phase] if phase else ["synthesize", "static", "state"]
    errors = []
    for name in phases:
        assert status(["train", name, "--config", str(config), "--model", "nowhere", "--output", "never"]) == 2
        errors.append(capsys.readouterr().err)
    assert any("nowhere: no such file or folder" in error for error in errors), errors


# -- what commands do


def said(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    capsys.readouterr()
    assert status(list(command)) == 0
    return capsys.readouterr().out


def test_generate_is_what_the_model_generates(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"max_tokens": 12, "temperature": 0.9, "top_k": 20, "top_p": 0.9, "seed": 4}
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    model = load_model("plus")
    text = said(capsys, "generate", "plus", "--prompt", "Tell a story.", *flags)
    assert text == model.generate(["Tell a story."], **options)[0] + "\n"
    assert said(capsys, "generate", "plus", "--prompt", "Tell a story.", *flags) == text
    assert said(capsys, "generate", "plus", "--prompt", "Tell a story.", *flags, "--seed", "5") != text
    cut = said(capsys, "generate", "plus", "--prompt", "Tell a story.", *flags, "--stop", text[3])
    assert cut == text[: text.index(text[3])] + "\n"


def test_generate_from_a_file_and_without_an_update(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--max-tokens", "12", "--temperature", "0")
    told = said(capsys, "generate", "plus", "--prompt", "Hello.", *flags)
    assert said(capsys, "generate", "plus", "--encoded", "hello.safetensors", *flags) == told
    bare = said(capsys, "generate", "start", "--prompt", "Hello.", *flags)
    assert said(capsys, "generate", "plus", "--prompt", "Hello.", "--no-update", *flags) == bare
    assert said(capsys, "generate", "plus", "--encoded", "hello.safetensors", "--no-update", *flags) == bare


def test_generate_holds_the_marker_back_and_forces_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(
        capsys, "generate", "plus", "--prompt", "Hello.", "--hold-until", "2", "--force-marker", r"\nCode:",
        "--max-tokens", "400", "--temperature", "1.5",
    )  # fmt: skip
    assert text.count("\nCode:") == 1


def test_words_that_look_like_yaml_are_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("null", "123", "true", "{a: b}", "- x", "@x"):
        assert said(capsys, "generate", "plus", "--prompt", prompt, "--max-tokens", "1", "--temperature", "0")


def test_info_tells_sizes_kernel_and_module(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "info", "plus")
    for words in (
        "rwkv4",
        "hidden_size",
        "fingerprint",
        "kernel",
        "module",
        "preset plus",
        "300 tokens",
    ):
        assert words in out
    assert "none" in said(capsys, "info", "alone/x.pth")


def test_perplexity_with_and_without_the_update(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = json.loads(said(capsys, "perplexity", "start", "validation.jsonl"))
    assert json.loads(said(capsys, "perplexity", "plus", "validation.jsonl", "--no-update")) == pytest.approx(bare)
    assert json.loads(said(capsys, "perplexity", "plus", "validation.jsonl"))["perplexity"] != bare["perplexity"]


def test_prompts_may_begin_from_a_learned_state(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("start")
    model.initial = InitialState(model.backbone)
    with torch.no_grad():
        for learned in model.initial.layers:
            learned += torch.tensor([[3.0], [6.0]])
    save_initial(model.initial, tmp_path / "state.pth")
    state, flags = ("--state", str(tmp_path)), ("--max-tokens", "12", "--temperature", "0")
    text = said(capsys, "generate", "start", "--prompt", "Hello.", *flags, *state)
    assert text == model.generate(["Hello."], max_tokens=12, temperature=0.0)[0] + "\n"
    assert text != said(capsys, "generate", "start", "--prompt", "Hello.", *flags)
    encoded = str(tmp_path / "e.safetensors")
    said(capsys, "encode", "start", "--prompt", "Hello.", "--out", encoded, *state)
    assert said(capsys, "generate", "start", "--encoded", encoded, *flags) == text
    bare, begun = (json.loads(said(capsys, "perplexity", "start", "validation.jsonl", *more)) for more in ((), state))
    assert bare["perplexity"] != begun["perplexity"]


def test_convert_there_and_back(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "convert", "start", str(tmp_path / "x.pth"))
    said(capsys, "convert", str(tmp_path / "x.pth"), str(tmp_path / "back"))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (here / "start" / name).read_bytes()
    said(capsys, "convert", "start", str(tmp_path / "back"), "--dtype", "bf16", "--overwrite")
    assert "bfloat16" in said(capsys, "info", str(tmp_path / "back"))


# -- pipes and Ctrl-C, in processes of their own


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "prosg", *command]
    return subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, **options)


LONG = ["generate", "start", "--prompt", "x", "--max-tokens", "1000000"]


def test_a_reader_that_has_enough_is_no_error(here: Path) -> None:
    process = start(LONG, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""


def test_ctrl_c_stops_in_one_line(here: Path) -> None:
    process = start(LONG, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    assert process.wait(60) == 130
    assert process.stderr.read() == b"\nstopped\n"


def test_ctrl_c_while_training_says_how_to_go_on(shop: TrainingFolder, tmp_path: Path) -> None:
    command = shop.command("finetune", tmp_path / "run", "--optim.steps", 100000)
    process = start(command, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint-3").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read() == b"\nstopped; the same command goes on from here\n"
