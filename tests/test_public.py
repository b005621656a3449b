"""What `import prosg` gives, and what a type checker sees of it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import prosg
from prosg.core.encoded import EncodedPrompt
from prosg.generation.sampling import Sampling, SamplingOptions
from support.models import live_model, same_encoded, tokens


def test_every_public_name_is_there() -> None:
    for name in prosg.__all__:
        assert getattr(prosg, name).__name__ == name
    assert prosg.__version__ == version("prosg")
    with pytest.raises(AttributeError, match="nothing"):
        _ = prosg.nothing


def test_the_options_of_generate_are_those_of_sampling() -> None:
    assert SamplingOptions.__annotations__.keys() == Sampling.__dataclass_fields__.keys()


SCRIPT = """import prosg
from prosg import EncodedPrompt, ProSG, Sampling

model: ProSG = prosg.load_model("x", dtype="bf16", device="auto", end_token=[3])
talk = [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]
encoded: EncodedPrompt = model.encode(talk, memory="both", tau=20.0, template="world")
text: str = model.generate("a", max_tokens=3, stop=["x"], memory="anchor")
reply: str = model.generate(talk, seed=1)
samples: list[str] = model.generate(talk, n=3, temperature=0.5)
texts: list[str] = model.generate(["a", "b"])
replies: list[str] = model.generate([talk, talk])
grouped: list[list[str]] = model.generate(("a", "b"), n=2)
again: list[str] = model.generate(encoded.to("cpu").take([0]))
for piece in model.stream("a", max_tokens=3):
    print(piece.upper())
for row, part in model.stream(["a", "b"]):
    print(row + 1, part.upper())
number: float = model.perplexity(talk, "b")
numbers: list[float] = model.perplexity(["a"], ["b"], memory="none")
prosg.save_encoded(EncodedPrompt.join([encoded, encoded]), "x.safetensors", model, overwrite=True)
print(len(prosg.load_encoded("x.safetensors", model)), model.template.name, model.half().dtype, prosg.__version__)
fresh: ProSG = ProSG.from_scratch(model, "static", seed=1)
prosg.save_adapter(fresh, "x", base="y")
conversation = prosg.Conversation(model, "world", memory="update", system="b")
print("".join(conversation.ask("a", max_tokens=3)), Sampling(top_k=3).ends)
status: int = prosg.train("synthesize", prosg.TrainConfig("x", "y", "z"))
# wrong from here on
model.generate("a", max_token=3)
model.generate("a", temperature="hot")
model.stream("a", n=2)
model.encode("a", memory="bothh")
model.perplexity("a", ["b"])
length: int = model.generate("a")
ProSG.from_scratch(model, seed="x")
"""


def test_a_type_checker_finds_a_wrong_option(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[1]
    # Strict by the project's own file, so that one cache serves this and the project's check.
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(script)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=280).stdout
    ours = [line for line in told.splitlines() if "script.py" in line and ": error: " in line]
    lines = SCRIPT.splitlines()
    wrong = range(lines.index("# wrong from here on") + 2, len(lines) + 1)
    assert sorted({int(line.split(":")[1]) for line in ours}) == [*wrong], told


def test_a_model_says_where_and_what_it_is_and_a_prompt_is_short() -> None:
    model = live_model("rwkv4", "plus", torch.float64)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float64)
    encoded = model.encode(tokens(2, 3), memory="both")
    assert repr(encoded) == "EncodedPrompt(2 prompts, 2 layers of state with update and anchor, on cpu)"
    moved = encoded.to("cpu")
    assert torch.equal(moved.logits, encoded.logits) and moved.update is not None and moved.anchor is not None
    assert moved.update.keys() == (encoded.update or {}).keys()
    assert len(encoded) == 2 and encoded.replace(update=None, anchor=None).to("cpu").update is None
    one = encoded.take([1])
    assert len(one) == 1 and repr(one).startswith("EncodedPrompt(1 prompt, ")
    assert same_encoded(EncodedPrompt.join([encoded.take([0]), one]), encoded)
    with pytest.raises(ValueError, match="row 2 is not there; the rows are 0 to 1"):
        encoded.take([2])
    with pytest.raises(ValueError, match="no encoded prompts"):
        EncodedPrompt.join([])


def test_a_misspelt_option_is_named_with_the_one_that_was_meant() -> None:
    model = live_model("rwkv4", "plus", torch.float32)
    calls: dict[str, Any] = {
        "generate": lambda: model.generate("a", temprature=0.5),
        "stream": lambda: model.stream("a", temprature=0.5),
        "sampling": lambda: model.sampling(temprature=0.5),
    }
    for name, call in calls.items():
        with pytest.raises(
            TypeError, match=rf"{name}\(\) has no option 'temprature', did you mean temperature\?; allowed"
        ):
            call()
    with pytest.raises(
        TypeError, match=r"encode\(\) has no option 'memry', did you mean memory\?; allowed: memory, tau"
    ):
        model.encode(tokens(1, 3), memry="none")
    with pytest.raises(TypeError, match=r"perplexity\(\) has no option 'window'"):
        model.perplexity("a", "b", window=3)
