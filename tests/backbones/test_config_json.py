"""config.json: sizes are checked before anything of that size is built."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prosg.backbones.config_json import MOST_LAYERS, read_config
from prosg.backbones.hf.files import load_hf
from prosg.utils.io import CheckpointError
from support.generated import draws, refusal, value

GOOD: dict[str, Any] = {"model_type": "gpt2", "vocab_size": 20, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": None}


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def test_a_configuration_comes_back_as_it_is(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, GOOD)) == GOOD


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("n_layer", 10**9),
        ("n_layer", -1),
        ("n_layer", None),
        ("n_layer", 2.0),
        ("n_layer", "2"),
        ("n_layer", True),
        ("n_embd", float("nan")),
        ("n_embd", 10**12),
        ("vocab_size", None),
        ("vocab_size", 10**400),
        ("n_head", 1e39),
        ("text_config", {"num_hidden_layers": MOST_LAYERS + 1}),
        ("model_type", 3),
    ],
)
def test_a_size_that_no_model_has_is_refused_before_it_is_built(key: str, given: Any, tmp_path: Path) -> None:
    file = write(tmp_path, {**GOOD, key: given})
    for call in (lambda: read_config(file), lambda: load_hf(tmp_path)):
        with pytest.raises(CheckpointError, match=r"config.json: ") as error:
            call()
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_generated_configurations_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    for draw in draws(41):
        config = {**GOOD, draw.choice([*GOOD, "text_config", "num_layers", "head_dim"]): value(draw)}
        file = write(tmp_path, config)
        if not refusal(partial(read_config, file), f"{file}: "):
            sizes = [read_config(file)[key] for key in ("vocab_size", "n_embd", "n_layer")]
            assert all(type(size) is int and 1 <= size <= 1 << 24 for size in sizes)
