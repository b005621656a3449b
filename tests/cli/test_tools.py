"""The commands around an encoded prompt, from files to files; what they refuse leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.load import load_model
from prosg.cli import main
from prosg.core.update import Site
from prosg.inspection.updates import compare_updates
from support.models import gap
from support.training_folder import TrainingFolder, make_training_folder

PROMPT = "Remember: a tree, a lake."


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    """With an adapter, and prompts that it encoded: one, and two in a file."""
    folder = tmp_path_factory.mktemp("workshop")
    shop = make_training_folder(folder)
    shop.run("synthesize", folder / "run", "--optim.steps", 2, "--optim.lr", 0.1)
    model = load_model(folder / "run")
    save_encoded(model.encode(PROMPT), model, folder / "one.safetensors")
    save_encoded(model.encode([PROMPT, "Hello."]), model, folder / "two.safetensors")
    save_encoded(load_model(folder / "start").encode(PROMPT), load_model(folder / "start"), folder / "bare.safetensors")
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

    def check(command: str, *words: str) -> None:
        before = contents(here)
        capsys.readouterr()
        assert status(command.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ") and err.count("\n") == 1
        for word in words:
            assert word in err
        assert contents(here) == before

    return check


def under_update(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = load_model(folder / "run")
    with torch.no_grad():
        logits: torch.Tensor = model.backbone(ids, update=load_encoded(folder / "one.safetensors", model).update).logits
    return logits


IDS = torch.tensor([[5, 17, 200, 3, 42, 42, 7]])


@pytest.mark.parametrize("out", ["merged.pth", "merged"])
def test_merge(here: Path, out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / out
    assert main(["merge", "run", "--encoded", "one.safetensors", "--out", str(target)]) == 0
    said = capsys.readouterr().out
    assert "8 projections merged, float32" in said and "recurrent state" in said
    ours = under_update(here, IDS)
    assert gap(load_backbone("start")(IDS).logits.detach(), ours) > 1e-3
    assert gap(load_backbone(target)(IDS).logits.detach(), ours) < 1e-5
    # Its tokenizer lies beside it, so it is a model like any other.
    assert main(["generate", str(target), "--prompt", "x", "--max-tokens", "2"]) == 0
    before = contents(tmp_path)
    assert status(["merge", "run", "--prompt", PROMPT, "--out", str(target)]) == 2
    assert "exists" in capsys.readouterr().err and contents(tmp_path) == before
    assert main(["merge", "run", "--prompt", PROMPT, "--out", str(target), "--overwrite"]) == 0
    assert gap(load_backbone(target)(IDS).logits.detach(), ours) < 1e-5


def test_export(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peft = pytest.importorskip("peft")
    from transformers import RwkvForCausalLM

    target = tmp_path / "lora"
    assert main(["export", "run", "--prompt", PROMPT, "--peft", str(target)]) == 0
    assert "rank 8 on 8 projections" in capsys.readouterr().out
    assert Path(json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"]).samefile("start")
    theirs = peft.PeftModel.from_pretrained(RwkvForCausalLM.from_pretrained("start"), target).eval()
    with torch.no_grad():
        assert gap(theirs(IDS).logits, under_update(here, IDS)) < 1e-4


def test_inspect(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["inspect", "run", "--prompt", PROMPT, "--prompt", "Hello.", "--png", str(tmp_path / "x.png")]
    assert main([*command, "--tokens", "3"]) == 0
    said = capsys.readouterr().out
    model = load_model("run")
    ids, lengths = model.tokenise([PROMPT, "Hello."])
    found = compare_updates(model.backbone, model.encode(ids, lengths).update)[Site(1, "output")]
    assert f"A  {PROMPT!r}\nB  'Hello.'\n" in said and "|dW|/|W|" in said and "cosine with A, B" in said
    line = next(line for line in said.splitlines() if line.startswith("1.output"))
    assert f"{found.relative[0]:.4f}" in line and f"{found.cosine[0, 1]:.3f}" in line
    assert f"A  {lengths[0]} tokens" in said and f"{lengths[0] - 3} more tokens hold" in said
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", "run", "--prompt", PROMPT]) == 0
    assert "cosine" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("phase", "recipe", "words"),
    [("synthesize", "paper", "reads the last token only"), ("static", "static", "reads nothing")],
)
def test_inspect_where_there_are_no_reads(
    shop: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], phase: str, recipe: str, words: str
) -> None:
    shop.run(phase, tmp_path / "run", "--recipe", recipe, "--optim.steps", 1)
    assert main(["inspect", str(tmp_path / "run"), "--prompt", "x", "--prompt", PROMPT]) == 0
    said = capsys.readouterr().out
    assert f"This module {words}: there are no reads to look at." in said and "0.key" in said
    assert status(["inspect", str(tmp_path / "run"), "--prompt", "x", "--png", str(tmp_path / "x.png")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "x.png").exists()


def case(command: str, *words: str) -> Any:
    return pytest.param(command, words, id=command)


BAD = [
    case("merge run --out x.pth", "either --prompt TEXT or --encoded FILE"),
    case("merge run --prompt x --encoded one.safetensors --out x.pth", "either"),
    case("merge run --encoded two.safetensors --out x.pth", "two.safetensors", "holds 2 prompts"),
    case("merge run --encoded nowhere --out x.pth", "nowhere", "no such file"),
    case("merge start --prompt x --out x.pth", "start", "no module", "adapter"),
    case("merge start --encoded bare.safetensors --out x.pth", "no module"),
    case("merge start --encoded one.safetensors --out x.pth", "another model"),
    case("merge run --prompt x", "required", "out"),
    case("merge run --prompt x --out x.bin", ".bin", ".pth"),
    case("merge run --prompt x --out full", "full", "exists"),
    case("merge run --prompt x --out full --overwrite", "full", "not replaced"),
    case("merge run --prompt x --out start", "start", "--overwrite"),
    case("merge run --prompt x --out x.pth --window 0", "window is 0"),
    case("merge run --prompt x --out x.pth --template no", "template", "world, pile, raven"),
    case("export run --encoded two.safetensors --peft x", "holds 2 prompts"),
    case("export run --prompt x --peft full --overwrite", "full", "not replaced"),
    case("export run --prompt x --peft /proc/x", "/proc"),
    case("export run --prompt x", "required", "peft"),
    case("inspect start --prompt x", "start", "no module"),
    case("inspect run", "required", "prompt"),
    case("inspect run --prompt x --png full", "full", "is a folder"),
    case("inspect run --prompt x --png /proc/x.png", "/proc/x.png"),
    case("inspect run --prompt x --tokens -1", "--tokens is -1"),
    case("inspect run --prompt x --state nowhere", "nowhere", "no such file"),
    case("inspect run" + " --prompt x" * 27, "27 prompts", "26"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Refused, command: str, words: tuple[str, ...]) -> None:
    refused(command, *words)
