"""What features say whose extra is not installed: each is tried with a package of its extra blocked."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from prosg.cli.rate import COMMAND as RATE
from prosg.evaluation.ifeval.language import _detector_factory, detect_language
from prosg.llm.budget import Budget, BudgetConfig
from prosg.llm.client import EndpointClient
from prosg.llm.config import EndpointConfig
from prosg.musi.build import _check_packages
from prosg.musi.export import write_parquet
from prosg.musi.similar import rouge_l
from prosg.musi.tasks import read_tasks
from prosg.training.lora import add_lora
from prosg.utils.extras import Extra
from prosg.utils.store import Log
from support.checkpoints import small_rwkv4
from support.rating import make_run

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
ENDPOINT = EndpointConfig(base_url="http://127.0.0.1:1/v1", model="m")


def ask_a_model() -> None:
    budget, log = Budget(BudgetConfig(9, 9), Path("ledger.jsonl")), Log(Path("log.jsonl"))
    EndpointClient(ENDPOINT, budget, "stage", log, answered=False, reached=set())


def detect() -> None:
    _detector_factory.cache_clear()
    detect_language("Ja")


def rate() -> None:
    Path("run").mkdir()
    RATE.run(RATE.parser().parse([str(make_run(Path("run")))]))


FEATURES: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "near-duplicates": ("rapidfuzz.distance", "data", lambda: rouge_l("one text", "one text more")),
    "a data set in Parquet": ("pyarrow", "data", lambda: write_parquet(Path("x.parquet"), [])),
    "tasks in Parquet": ("pyarrow", "data", lambda: read_tasks(["x.parquet"])),
    "a build": ("pyarrow", "data", lambda: _check_packages(["export"])),
    "asking a model": ("tenacity", "data", ask_a_model),
    "LoRA": ("peft", "train", lambda: add_lora(small_rwkv4(), 2, 4.0, (), 0)),
    "languages": ("langdetect", "eval", detect),
    "rating": ("uvicorn", "eval", rate),
    "the harness": ("lm_eval", "harness", lambda: importlib.import_module("prosg.evaluation.lm_eval")),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_names_its_extra(feature: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package, extra, use = FEATURES[feature]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.parquet").touch()
    monkeypatch.delitem(sys.modules, "prosg.evaluation.lm_eval", raising=False)
    monkeypatch.delitem(sys.modules, "prosg.evaluation.ratings.server", raising=False)
    for name in {package, package.partition(".")[0]} | {name for name in sys.modules if name.startswith(f"{package}.")}:
        monkeypatch.setitem(sys.modules, name, None)
    cure = f"needs the extra `{extra}`: pip install 'prosg[{extra}]' ({package.partition('.')[0]}"
    with pytest.raises(ValueError, match=re.escape(cure) + r"[\w.]* is missing\)$"):
        use()


def test_extras_are_those_of_the_project() -> None:
    extras = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["optional-dependencies"]
    assert {*get_args(Extra)} <= extras.keys()
