"""What `import prosg` gives, and what a type checker sees of it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import prosg
from prosg.generation.sampling import Sampling, SamplingOptions
from support.models import live_model, tokens


def test_every_public_name_is_there() -> None:
    for name in prosg.__all__:
        assert getattr(prosg, name).__name__ == name
    assert prosg.__version__ == version("prosg")
    with pytest.raises(AttributeError, match="nothing"):
        _ = prosg.nothing


def test_the_options_of_generate_are_those_of_sampling() -> None:
    assert SamplingOptions.__annotations__.keys() == Sampling.__dataclass_fields__.keys()


def test_a_type_checker_finds_a_wrong_option(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import prosg\nmodel = prosg.load_model('x', dtype='bf16')\n"
        "print(model.generate('a', max_tokens=3))\nprint(model.generate('a', max_token=3))\n"
        "print(model.generate('a', temperature='hot'))\n"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "/dev/null", str(script)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=280).stdout
    ours = [line for line in told.splitlines() if "script.py" in line and ": error: " in line]
    assert [line.split(":")[1] for line in ours] == ["4", "5"], told


def test_a_model_says_where_and_what_it_is_and_a_prompt_is_short() -> None:
    model = live_model("rwkv4", "plus", torch.float64)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float64)
    encoded = model.encode(tokens(2, 3), memory="both")
    assert repr(encoded) == "EncodedPrompt(2 prompts, 2 layers of state with update and anchor, on cpu)"
    moved = encoded.to("cpu")
    assert torch.equal(moved.logits, encoded.logits) and moved.update is not None and moved.anchor is not None
    assert moved.update.keys() == (encoded.update or {}).keys()
    assert encoded.replace(update=None, anchor=None).to("cpu").update is None
