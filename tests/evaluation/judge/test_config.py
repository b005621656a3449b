"""Options of the judge."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

import prosg
from prosg.evaluation.judge.config import JudgeConfig, load_judge
from prosg.utils.options import build
from support.judging import make_config


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"out": ""}, "out"),
        ({"tries": 0}, "tries is 0.* 1"),
        ({"pair": []}, "key pair, did you mean pairs"),
        ({"pairs": [["a"]]}, r"pairs\[0\]"),
        ({"pairs": [["a", "b"], ["b", "a"], ["a", "b"]]}, r"pairs\[2\]"),
        ({"budget": {"tokens": 5}}, "budget.requests"),
        ({"endpoint": {"attempts": 0}}, "endpoint.attempts is 0"),
        ({"endpoint": {"input_price": 1.0}}, "budget.money"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"judge.yaml: .*{match}"):
        load_judge(make_config(tmp_path, "http://127.0.0.1:9/v1", **changes))


def test_the_shipped_configuration_lists_every_option() -> None:
    file = Path(prosg.__file__).parent / "configs" / "judge.yaml"
    assert load_judge(file).budget.requests == 5000
    content = yaml.safe_load(file.read_text())
    options = dataclasses.asdict(build(JudgeConfig, {}))
    assert content.keys() == options.keys()
    for group in ("endpoint", "budget"):
        assert content[group].keys() == options[group].keys()
