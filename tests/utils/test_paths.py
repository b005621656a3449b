"""`~` in paths, wherever they come from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from prosg.cli.parser import Parser, path_text
from prosg.evaluation.config_file import load_config
from prosg.evaluation.judge.config import load_judge
from prosg.musi.config import load_config as load_build
from prosg.training.config import TrainConfig
from prosg.utils.io import written_whole
from prosg.utils.options import build
from prosg.utils.paths import user_path
from prosg.utils.spelling import meant_path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_only_a_tilde_at_the_start_is_expanded(home: Path) -> None:
    assert user_path("~/run") == f"{home}/run" and user_path("~") == str(home)
    for same in ("", "run", "a/~/b", "./~x", "/a~", "demo", "owner/name"):
        assert user_path(same) == same


def test_an_unknown_user_is_refused_rather_than_made_a_folder(home: Path) -> None:
    with pytest.raises(ValueError, match="~nobody-here"):
        user_path("~nobody-here/run")
    parser = Parser("A parser.")
    parser.add_argument("--out", type=path_text)
    with pytest.raises(SystemExit):
        parser.parse(["--out", "~nobody-here/run"])


def test_options_files_and_callers_mean_the_same_folder(home: Path) -> None:
    parser = Parser("A parser.")
    parser.add_argument("--out", type=path_text)
    assert parser.parse(["--out=~/run"]).out == f"{home}/run"
    in_a_file = build(TrainConfig, {"model": "~/m", "train": ["~/a", "b"], "validation": "~/v", "out": "~/run"})
    assert in_a_file == TrainConfig(f"{home}/m", [f"{home}/a", "b"], f"{home}/run", validation=f"{home}/v")
    with written_whole("~/file") as temporary:
        temporary.write_text("text")
    assert (home / "file").read_text() == "text"


def test_every_path_of_a_configuration_file_is_expanded(home: Path) -> None:
    file = home / "file.yaml"
    systems = {"one": "~/m", "two": {"model": "~/m", "base": "~/b", "initial": "~/i", "anchor": "~/a"}}
    content = {"out": "~/o", "cache": "~/c", "systems": systems, "data": {"file": "~/f", "train": "~/t"}}
    file.write_text(yaml.safe_dump(content | {"curve": {"filler": "~/l"}}))
    config = load_config(file)
    two = config.system("two")
    paths = [config.out, config.cache, config.system("one").model, two.model, two.base, two.initial, two.anchor]
    paths += [config.data.file, config.data.train, config.curve.filler]
    assert [os.path.dirname(path) for path in paths] == [str(home)] * len(paths)
    endpoint = {"model": "m", "base_url": "http://127.0.0.1:1/v1"}
    asked = {"out": "~/o", "endpoint": endpoint, "budget": {"requests": 1, "tokens": 1}}
    file.write_text(yaml.safe_dump(asked | {"pairs": [["a", "b"]]}))
    assert load_judge(file).out == f"{home}/o"
    examined = {"examples": "~/e", "category_files": ["~/c"]}
    file.write_text(yaml.safe_dump(asked | {"prompts": examined}))
    built = load_build(file)
    assert [built.out, built.prompts.examples, *built.prompts.category_files] == [f"{home}/{x}" for x in "oec"]


def test_a_missing_file_has_a_near_one_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned" / "model").mkdir(parents=True)
    (tmp_path / "rwkv7.pth").touch()
    assert meant_path("rwk7.pth") == ", did you mean rwkv7.pth?"
    assert meant_path("tunde/model") == ", did you mean tuned/model?"
    assert meant_path("tunde/other") == meant_path("nothing.jsonl") == meant_path("rwkv7.pth") == ""
    assert meant_path(tmp_path / "nowhere" / "deep" / "x") == meant_path("a\0b") == meant_path("") == ""
