"""Configurations that cannot be: one line each, status 2, naming key and what is allowed, before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import prosg
from prosg.cli import main
from prosg.data.row import write_rows
from prosg.data.synthetic import make_rows
from prosg.evaluation.config import DataConfig, EvalConfig
from prosg.evaluation.config_file import idle_options, missing_files
from support.evaluations import write_config

ONE = {"bare": "demo"}
SERVER = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "", "requests": 9, "tokens": 9999}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in SERVER.items() if key != name}


def system(**options: Any) -> dict[str, Any]:
    return {"systems": {"x": options}}


CASES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    # keys
    ({"system": {}}, ("unknown key system", "known are out, systems, measures")),
    ({"data": {"rwos": 3}}, ("unknown key data.rwos", "known are file")),
    ({"generation": {"temprature": 1}}, ("unknown key generation.temprature", "known are max_tokens")),
    ({"curve": {"lengths": [1]}}, ("unknown key curve.lengths", "known are rows, sentences")),
    ({"capacity": {"number": 1}}, ("unknown key capacity.number", "known are kind, items")),
    ({"overhead": {"size": 1}}, ("unknown key overhead.size", "known are batch, tokens")),
    (system(model="demo", updates="own"), ("unknown key systems.x.updates", "known are model")),
    (system(endpoint={**SERVER, "modle": "m"}), ("systems.x: unknown key endpoint.modle", "requests, tokens, money")),
    # types
    ({"batch_size": "many"}, ("batch_size is 'many'", "of type int")),
    ({"batch_size": True}, ("batch_size is True", "of type int")),
    ({"data": {"rows": 2.5}}, ("data.rows is 2.5", "of type int")),
    ({"data": []}, ("data is a list", "options and their values")),
    ({"measures": "curve"}, ("measures is 'curve'", "of type list")),
    ({"curve": {"sentences": ["far"]}}, ("curve.sentences[0] is 'far'", "of type int")),
    ({"systems": ["demo"]}, ("systems is ['demo']", "of type dict")),
    ({"systems": {"x": None}}, ("systems.x is a NoneType", "options and their values")),
    (system(model="demo", late_replay="yes"), ("systems.x.late_replay is 'yes'", "of type bool")),
    (system(endpoint={**SERVER, "requests": "many"}), ("systems.x: endpoint.requests is 'many'", "of type int")),
    # values
    ({"measures": ["accuracy", "rouge"]}, ("measures has rouge", "allowed: accuracy, perplexity, curve")),
    ({"measures": []}, ("measures is empty", "allowed: accuracy")),
    ({"device": "tpu"}, ("device is 'tpu'", "allowed: auto, cpu, cuda")),
    ({"batch_size": 0}, ("batch_size is 0", "at least 1")),
    ({"generation": {"max_tokens": 0}}, ("generation.max_tokens is 0", "at least 1")),
    ({"generation": {"temperature": -1}}, ("generation.temperature is -1.0", "0 or more")),
    ({"generation": {"top_p": 0}}, ("generation.top_p is 0.0", "above 0 and at most 1")),
    ({"generation": {"end_token": 0}}, ("generation.end_token", "known are")),
    ({"generation": {"seed": -1}}, ("generation.seed is -1", "0 or more")),
    ({"data": {"split": "dev"}}, ("data.split is 'dev'", "allowed: train, validation, test")),
    ({"data": {"rows": 0}}, ("data.rows is 0", "at least 1")),
    ({"data": {"sentences": [3, 1]}}, ("data.sentences is [3, 1]", "the least and the greatest")),
    ({"curve": {"sentences": [5, 5]}}, ("curve.sentences is 5,5", "rising numbers")),
    ({"curve": {"sentences": []}}, ("curve.sentences is empty", "rising numbers")),
    ({"curve": {"turns": [-1, 0]}}, ("curve.turns is -1,0", "from 0 on")),
    ({"curve": {"tokens_per_sentence": 0}}, ("curve.tokens_per_sentence is 0", "at least 1")),
    ({"curve": {"items": [6]}}, ("curve.items: kind 'ending' cannot have them", "allowed: names, code")),
    ({"curve": {"items": [99]}, "data": {"kinds": ["code"]}}, ("curve.items is 99", "4 to 64 digits")),
    ({"curve": {"filler": "nowhere.txt"}}, ("nowhere.txt: cannot be read",)),
    ({"data": {"kinds": ["poem"]}}, ("data.kinds has poem", "allowed: ending, names, code")),
    ({"data": {"kinds": ["code", "code"]}}, ("data.kinds is code,code", "each kind once")),
    ({"data": {"kinds": ["code", "list_use"]}, "measures": ["curve"]},
     ("curve is left out: data.kinds has list_use, which restate", "nothing else is measured")),
    ({"capacity": {"kind": "poem"}}, ("capacity.kind is 'poem'", "allowed: ending, names, code")),
    ({"capacity": {"items": [2]}}, ("capacity.items", "code", "4 to 64")),
    ({"capacity": {"kind": "ending"}}, ("capacity.items", "ending")),
    ({"reference": "phase 1"}, ("reference is 'phase 1'", "allowed: bare")),
    ({"out": ""}, ("out is missing", "--out")),
    ({"systems": {}}, ("systems are missing", "name at least one")),
    # systems
    (system(label="x"), ("systems.x: give either a model or an endpoint",)),
    (system(model="demo", endpoint=SERVER), ("systems.x: give either a model or an endpoint",)),
    (system(model="demo", label="a\nb"), ("systems.x: label is 'a\\nb'", "one line")),
    ({"title": "a\nb"}, ("title is 'a\\nb'", "one line")),
    (system(model="demo", update="others"), ("systems.x.update is 'others'", "allowed: own, other, mean, none")),
    (system(model="demo", state="lost"), ("systems.x.state is 'lost'", "allowed: kept, wiped")),
    (system(model="demo", prompt="thrice"), ("systems.x.prompt is 'thrice'", "allowed: once, twice")),
    (system(model="demo", replay_every=-1), ("replay_every, refresh_every, refresh_keep and window", "0 or more")),
    (system(model="demo", refresh_keep=9), ("systems.x: refresh_keep is for refresh_every or late_refresh",)),
    (system(model="demo", memory="none", tau=5), ("systems.x: tau is for memory anchor, both or auto, not none",)),
    (system(model="demo", memory="update", age=5), ("systems.x: age is for memory anchor",)),
    (system(model="demo", memory="anchor", window=4), ("systems.x: window is for memory update, both or auto",)),
    (system(model="demo", memory="none", update="other"), ("systems.x: update is 'other', but memory is 'none'",)),
    (system(model="demo", begin_token="<s>"), ("systems.x.begin_token: begin token is '<s>'", "an id, or none")),
    (system(model="demo", dtype="fp8"), ("systems.x: dtype is 'fp8'", "fp32, bf16")),
    ({**system(model="demo", late_replay=True), "measures": ["accuracy"]}, ("late_replay and late_refresh act",)),
    (system(model="demo", template="chatml"), ("systems.x.template: template is 'chatml'", "none, world, pile, raven")),
    ({"systems": {"a/b": "demo"}}, ("systems.a/b: a name has letters, digits",)),
    ({"systems": {"a": system(model="demo", label="L")["systems"]["x"], "b": {"model": "demo", "label": "L"}}},
     ("systems.b: has the label and seed of a", "another label or seed")),
    ({"systems": {"x": {"model": "demo", "update": "other"}}, "data": {"rows": 3}},
     ("systems.x: another prompt's memory needs two rows of each kind", "data.rows, 'ending' has one")),
    ({"systems": {"x": {"model": "demo", "update": "other"}}, "measures": ["curve"], "curve": {"rows": 4}},
     ("systems.x: another prompt's memory", "curve.rows, 'names' has one")),
    ({"systems": {"x": {"model": "demo", "update": "other"}}, "measures": ["capacity"], "capacity": {"rows": 1}},
     ("systems.x: another prompt's memory", "capacity.rows, 'code' has one")),
    # endpoints
    (system(endpoint=without("model")), ("systems.x: endpoint.model is missing",)),
    (system(endpoint=without("tokens")), ("systems.x: endpoint.tokens is missing", "a cap has to be given")),
    (system(endpoint={**SERVER, "requests": 0}), ("systems.x: endpoint.requests is 0", "above 0")),
    (system(endpoint={**SERVER, "base_url": "there"}), ("systems.x: endpoint.base_url must be an address",)),
    (system(endpoint={**SERVER, "api_key_env": "NO_SUCH_KEY"}), ("systems.x: endpoint", "NO_SUCH_KEY")),
    (system(endpoint={**SERVER, "input_price": 1}), ("systems.x: endpoint.money is missing", "prices")),
    (system(endpoint=SERVER, update="none"), ("systems.x: update cannot be had from an endpoint",)),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), CASES, ids=[said[0] for _, said in CASES])
def test_what_cannot_be_is_said_in_one_line(
    changes: dict[str, Any], said: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = changes.pop("systems", ONE) if "systems" in changes else ONE
    file = write_config(tmp_path, systems, **changes)
    assert main(["eval", file]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].startswith(f"error: {file}: "), told
    for words in said:
        assert words in told[0]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_options_that_shape_no_row_are_said() -> None:
    data = DataConfig(file="x.jsonl", sentences=[1, 2], split="train")
    said = "data.{} is for rows that are made, but data.file names rows: it has no effect"
    assert [*idle_options(EvalConfig(data=data))] == [said.format("sentences")]
    both = [said.format("sentences"), said.format("split")]
    assert [*idle_options(EvalConfig(data=data, measures=["accuracy"]))] == both
    assert not [*idle_options(EvalConfig(data=DataConfig(sentences=[1, 2])))]
    trained = EvalConfig(data=DataConfig(train="x.jsonl"), systems={"x": "demo"})
    assert ["data.train is for the mean update" in line for line in idle_options(trained)] == [True]
    unfit = EvalConfig(data=DataConfig(kinds=["story"]), measures=["accuracy", "curve"])
    assert ["curve is left out: data.kinds has story" in line for line in idle_options(unfit)] == [True]
    assert not [*idle_options(replace(trained, systems={"x": {"model": "demo", "update": "mean"}}))]


def test_files_of_systems_that_are_not_there_are_said() -> None:
    systems = {"x": "nowhere.pth", "y": "demo", "z": {"model": "demo", "initial": "./nowhere"}, "hub": "owner/name"}
    said = ["systems.x: model is nowhere.pth: no such file", "systems.z: initial is ./nowhere: no such file"]
    found = [*missing_files(EvalConfig(systems=systems))]
    assert len(found) == 2 and all(line.startswith(words) for line, words in zip(found, said, strict=True))


def test_files_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def complaint(file: str, *options: str) -> str:
        assert main(["eval", file, *options]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1, told
        return told[0]

    assert "nowhere.yaml: cannot be read" in complaint(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "bad.yaml").write_text("out: x\nsystems: {a: demo\n")
    assert "bad.yaml:3: not YAML" in complaint(str(tmp_path / "bad.yaml"))
    (tmp_path / "twice.yaml").write_text("out: x\nsystems:\n  a: demo\n  b: demo\n  a: other\n")
    assert "twice.yaml:5: not YAML (a stands twice)" in complaint(str(tmp_path / "twice.yaml"))
    (tmp_path / "empty.yaml").write_text("")
    assert "empty.yaml: out is missing" in complaint(str(tmp_path / "empty.yaml"))

    (tmp_path / "rows.jsonl").write_text("\n")
    file = write_config(tmp_path, ONE, data={"file": str(tmp_path / "rows.jsonl")})
    assert "rows.jsonl: holds no rows" in complaint(file)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": 3}\n')
    assert "rows.jsonl:2: " in complaint(file)
    file = write_config(tmp_path, ONE, data={"file": str(tmp_path / "none.jsonl")})
    assert "none.jsonl: cannot be read" in complaint(file)

    (tmp_path / "file").write_text("")
    file = write_config(tmp_path, ONE, out=str(tmp_path / "file"))
    assert f"out is '{tmp_path / 'file'}', which is a file; it names a folder" in complaint(file)
    file = write_config(tmp_path, ONE, cache=str(tmp_path / "rows.jsonl"))
    assert "rows.jsonl: not a file of answers" in complaint(file)
    file = write_config(tmp_path, ONE)
    assert "--jobs is 0, must be at least 1" in complaint(file, "--jobs", "0")
    assert "systems has no 'b'; it has bare" in complaint(file, "--system", "b")


def test_rows_of_a_file_and_another_prompts_update(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows without kinds are one group, which has to have two."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "answer": "b"}) + "\n")
    other = {"x": {"model": "demo", "update": "other"}}
    file = write_config(tmp_path, other, data={"file": str(rows)}, measures=["accuracy"])
    assert main(["eval", file]) == 2
    assert "by data.file, '' has one" in capsys.readouterr().err


def test_the_mean_update_needs_training_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mean = {"x": {"model": "demo", "update": "mean"}}
    train = tmp_path / "train.jsonl"
    write_rows(train, make_rows(["code"], 63, 0, "train"))
    kinds = {"kinds": ["code"], "train": str(train)}
    assert main(["eval", write_config(tmp_path, mean, data=kinds, measures=["accuracy"])]) == 2
    told = capsys.readouterr().err
    assert f"systems.x: the mean update needs 64 training prompts of each kind; {train} has 63 of 'code'" in told
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "answer": "b", "kind": "mine"}\n')
    file = write_config(tmp_path, mean, data={"file": str(tmp_path / "rows.jsonl")}, measures=["perplexity"])
    assert main(["eval", file]) == 2
    assert "data.train has 0 of 'mine'" in capsys.readouterr().err


def test_every_key_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--options"]) == 0
    told = capsys.readouterr().out
    for key in ("out", "data.kinds", "generation.late_temperature", "capacity.items", "replay_every", "endpoint"):
        assert f"  {key}: " in told
    assert main(["eval"]) == 2
    err = capsys.readouterr().err
    assert "FILE" in err and "--example" in err


def test_the_configuration_that_comes_along_has_every_option() -> None:
    from prosg.evaluation.config import EvalConfig
    from prosg.evaluation.config_file import load_config

    file = Path(prosg.__file__).parent / "configs" / "eval.yaml"
    config = load_config(file)
    content = yaml.safe_load(file.read_text())
    for name, value in vars(EvalConfig()).items():
        assert name in content
        if hasattr(value, "__dataclass_fields__"):
            assert set(content[name]) == set(value.__dataclass_fields__)
    assert {system.model for system in map(config.system, config.systems)} == {"demo"}
