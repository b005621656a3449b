"""`prosg inspect`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.load import load_model
from prosg.core.update import Site
from prosg.inspection.updates import compare_updates
from support.commands import PROMPT, case, status
from support.training_folder import TrainingFolder

BAD = [
    case("inspect start --prompt x", "start", "no module"),
    case("inspect run", "required", "--prompt"),
    case("inspect run --prompt x --png full", "--png", "folder"),
    case("inspect run --prompt x --png /proc/x.png", "/proc/x.png"),
    case("inspect run --prompt x --png cut.txt --overwrite", "--png is cut.txt", ".png"),
    case("inspect run --prompt x --tokens -1", "--tokens is -1"),
    case("inspect run --prompt x --state nowhere", "nowhere", "no such file"),
    case("inspect run" + " --prompt x" * 27, "27 prompts", "26"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_norms_cosines_and_reads(tmp_path: Path, output: Callable[..., str]) -> None:
    png = tmp_path / "x.png"
    text = output("inspect", "run", "--prompt", PROMPT, "--prompt", "Hello.", "--png", png, "--tokens", "3")
    model = load_model("run")
    ids, lengths = model.tokenise([PROMPT, "Hello."])
    update = model.encode(ids, lengths).update
    assert update is not None
    compared = compare_updates(model.backbone, update)[Site(1, "output")]
    assert repr(PROMPT) in text and "'Hello.'" in text and "cosine" in text
    line = next(line for line in text.splitlines() if line.startswith("1.output"))
    assert f"{compared.relative[0]:.4f}" in line and f"{compared.cosine[0, 1]:.3f}" in line
    assert f"A  {lengths[0]} tokens" in text and f"{lengths[0] - 3} more tokens" in text
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "cosine" not in output("inspect", "run", "--prompt", PROMPT)


@pytest.mark.parametrize(
    ("phase", "recipe", "words"), [("synthesize", "paper", "the last token"), ("static", "static", "reads nothing")]
)
def test_a_module_that_reads_no_positions(
    shop: TrainingFolder,
    tmp_path: Path,
    output: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    phase: str,
    recipe: str,
    words: str,
) -> None:
    shop.run(phase, tmp_path / "run", "--recipe", recipe, "--optim.steps", 1)
    text = output("inspect", tmp_path / "run", "--prompt", "x", "--prompt", PROMPT)
    assert words in text and "0.key" in text
    assert status(["inspect", str(tmp_path / "run"), "--prompt", "x", "--png", str(tmp_path / "x.png")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "x.png").exists()


def test_an_update_that_overflows_is_refused_before_anything_is_drawn(
    here: Path, tmp_path: Path, refused: Callable[..., None]
) -> None:
    model = load_model("run")
    assert model.synthesizer is not None
    with torch.no_grad():
        for parameter in model.synthesizer.parameters():
            parameter.fill_(9e9)  # below what is refused on loading, and too much for fp32 on a prompt
    save_adapter(model, tmp_path / "large")
    png = tmp_path / "large.png"
    refused(["inspect", str(tmp_path / "large"), "--prompt", PROMPT, "--png", str(png)], "NaN or infinite")
    assert not png.exists()
