"""A build against a server that misbehaves: whole, killed, capped, misconfigured.

PROSG_FULL=1 runs the long form: 500 instructions, killed 20 times (some minutes).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from prosg.cli import main
from prosg.data.checks import check_stages
from prosg.data.row import read_rows
from prosg.musi.similar import rouge_l
from support.chat_server import Server

FULL = os.environ.get("PROSG_FULL") == "1"
COUNT, KILLS, STEP = (500, 20, 130) if FULL else (20, 5, 16)
HOW: dict[str, Any] = {"patience": 1.5}
if not FULL:  # few time-outs, since each costs a second or two
    HOW |= {"timeouts": 0.06, "retry_after": ("0.1", "0.4")}
KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSI_KEY", KEY)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(**HOW) as running:
        yield running.start()
        running.shutdown()


def configure(folder: Path, url: str, **changes: dict[str, Any]) -> Path:
    content: dict[str, Any] = {
        "out": str(folder / "out"),
        "endpoint": {
            "base_url": url, "model": "mock", "api_key_env": "MUSI_KEY", "timeout": HOW["patience"], "backoff": 0.02,
            "concurrency": 16, "input_price": 1.0, "output_price": 2.0,
        },
        "budget": {"requests": 100 * COUNT, "tokens": 50_000 * COUNT, "money": 1.0 * COUNT},
        "prompts": {"count": COUNT},
        "export": {"licence": "CC-BY-4.0"},
    }  # fmt: skip
    for group, values in changes.items():
        content[group] = {**content.get(group, {}), **values} if isinstance(values, dict) else values
    file = folder / "build.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def exported(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / "export").iterdir())}


def check_books(out: Path, server: Server, budget: dict[str, Any]) -> Counter[str]:
    """No cap is passed at any line of the ledger, and no record is asked for after its reply; returns the outcomes."""
    open_bookings: dict[int, dict[str, Any]] = {}
    replied: set[str] = set()
    spent = {"requests": 0.0, "tokens": 0.0, "money": 0.0}
    outcomes: Counter[str] = Counter()
    for line in lines(out / "ledger.jsonl"):
        if line["event"] == "booked":
            assert line["record"] not in replied
            open_bookings[line["booking"]] = line
            for name in spent:
                spent[name] += line[name]
        else:
            booked = open_bookings.pop(line["booking"])
            outcomes[line.get("outcome", "lost")] += 1
            if line["event"] == "settled":
                spent["tokens"] += line["tokens_in"] + line["tokens_out"] - booked["tokens"]
                spent["money"] += line["money"] - booked["money"]
                if line["outcome"] == "reply":
                    replied.add(booked["record"])
        assert all(spent[name] <= budget[name] + 1e-9 for name in spent)
    assert not open_bookings
    records = [line["id"] for name in ("prompts", "answers", "verify") for line in lines(out / f"{name}.jsonl")]
    assert len(records) == len(set(records)) == len(replied)
    assert sum(server.seen.values()) <= spent["requests"]
    assert server.tokens <= spent["tokens"]
    return outcomes


def check_result(out: Path, server: Server) -> None:
    """Every valid pair is there and no other, each passes its checks, and splits have nothing alike."""
    splits = {file.stem: read_rows(file) for file in (out / "export").glob("*.jsonl")}
    rows = [row for some in splits.values() for row in some]
    assert {(row.prompt, row.answer) for row in rows} == server.valid
    assert len(rows) == len(server.valid) > COUNT // 2
    assert all(len(row.stages) >= 2 and all(check_stages(row, row.answer)) for row in rows)
    if not FULL:
        for one in splits.get("test", []):
            assert all(rouge_l(one.prompt, other.prompt) <= 0.7 for other in splits["train"])
    reasons = Counter(line["reasons"][0] for line in lines(out / "rejected.jsonl"))
    assert {"a refusal", "cut off at max_tokens"} < reasons.keys() or not FULL
    for file in out.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_build_ends_with_every_valid_pair(
    tmp_path: Path, server: Server, stream: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(tmp_path, server.url, endpoint={"stream": stream})
    assert main(["data", "build", str(config)]) == 0
    check_result(tmp_path / "out", server)
    outcomes = check_books(tmp_path / "out", server, yaml.safe_load(config.read_text())["budget"])
    assert {"reply", "http 429", "http 500", "http 503", "time-out", "broken off"} <= outcomes.keys()
    assert server.waits and min(server.waits) >= 0  # Retry-After is obeyed
    assert server.keys == {f"Bearer {KEY}"}
    asked, before = sum(server.seen.values()), exported(tmp_path / "out")
    assert main(["data", "build", str(config)]) == 0
    assert sum(server.seen.values()) == asked
    assert exported(tmp_path / "out") == before
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_kills_change_nothing_in_the_result(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    rng = random.Random(1)
    with Server(faults=0.0) as calm:
        config = configure(whole, calm.start().url)
        assert main(["data", "build", str(config)]) == 0
        calm.shutdown()
    with Server(**HOW, delay=0.0 if FULL else 0.05) as server:
        config = configure(cut, server.start().url)
        command = [sys.executable, "-m", "prosg", "data", "build", str(config)]
        kills = 0
        while kills < KILLS:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # Moments are counted in requests, so that they fall into the build however slow the machine is.
            asked = sum(server.seen.values()) + rng.randint(1, STEP)
            while process.poll() is None and sum(server.seen.values()) < asked:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.1))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            assert process.returncode == -signal.SIGKILL, "the build was over before all kills were made"
        assert subprocess.run(command, capture_output=True).returncode == 0
        check_result(cut / "out", server)
        outcomes = check_books(cut / "out", server, yaml.safe_load(config.read_text())["budget"])
        late = outcomes["time-out"] - server.outcomes["timeout"]
        records = sum(len(lines(cut / "out" / f"{name}.jsonl")) for name in ("prompts", "answers", "verify"))
        assert sum(server.complete.values()) - records <= outcomes["lost"] + max(late, 0)
        assert 0 < outcomes["lost"] <= KILLS * 16
        print(f"{KILLS} kills, {outcomes['lost']} requests lost, {sum(outcomes.values())} in all: {dict(outcomes)}")
        server.shutdown()
    assert exported(cut / "out") == exported(whole / "out")


@pytest.mark.parametrize("cap", [{"requests": 21}, {"tokens": 7_000}, {"money": 0.012}], ids=str)
def test_a_cap_stops_the_build_and_a_higher_one_lets_it_go_on(
    tmp_path: Path, cap: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(faults=0.3, bad=0.0, **HOW) as server:
        config = configure(tmp_path, server.start().url, budget=cap, prompts={"count": 10})
        budget = yaml.safe_load(config.read_text())["budget"]
        assert main(["data", "build", str(config)]) == 1
        name = next(iter(cap))
        assert f"stopped by budget.{name}" in capsys.readouterr().err
        check_books(tmp_path / "out", server, budget)
        if name == "requests":
            assert sum(line["event"] == "booked" for line in lines(tmp_path / "out" / "ledger.jsonl")) == 21
        config = configure(tmp_path, server.url, prompts={"count": 10})
        assert main(["data", "build", str(config)]) == 0
        check_books(tmp_path / "out", server, yaml.safe_load(config.read_text())["budget"])
        server.shutdown()


def test_stages_alone_and_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(faults=0.0, bad=0.0) as server:
        config = str(configure(tmp_path, server.start().url, prompts={"count": 10}))
        assert main(["data", "build", config, "--dry-run"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert [line.split()[:2] for line in told[1:5]] == [
            ["prompts", "2"], ["answers", "10"], ["verify", "10"], ["all", "22"],
        ]  # fmt: skip
        assert not server.seen and not (tmp_path / "out").exists()
        for stages in (["prompts", "filter"], ["answers"], ["verify"]):
            assert main(["data", "build", config, "--stages", *stages]) == 0
        assert not (tmp_path / "out" / "export").exists()
        asked = sum(server.seen.values())
        server.shutdown()
    assert main(["data", "build", config, "--stages", "export"]) == 0  # needs no server
    assert (tmp_path / "out" / "export" / "README.md").read_text().startswith("---\npretty_name")
    assert sum(server.seen.values()) == asked


def test_the_configuration_that_ships_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parents[2] / "configs" / "musi.yaml"
    assert main(["data", "build", str(config), "--dry-run"]) == 0
    assert "200" in capsys.readouterr().out.splitlines()[1]


def test_other_words_for_an_endpoint_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = {"attempts": 2, "concurrency": 1, "timeout": 0.5}
    config = configure(tmp_path, "http://127.0.0.1:9/v1", endpoint=fast)
    began = time.monotonic()
    assert main(["data", "build", str(config)]) == 2
    assert "gives no replies (no connection)" in capsys.readouterr().err
    assert time.monotonic() - began < 10
    ledger = lines(tmp_path / "out" / "ledger.jsonl")
    assert all(line["tokens_in"] == 0 for line in ledger if line["event"] == "settled")


BAD = [
    ({"prompts": {"categories": ["poetry"]}}, "poetry", "known are two-stage"),
    ({"endpoint": {"api_key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY", "not set"),
    ({"verify": {"endpoint": {"api_key_env": "NO_SUCH_KEY"}}}, "verify.endpoint", "NO_SUCH_KEY"),
    ({"budget": {"requests": 0}}, "budget.requests is 0", "above 0"),
    ({"budget": {"tokens": 0}}, "budget.tokens is 0"),
    ({"budget": {"money": 0}}, "budget.money is 0"),
    ({"budget": {"money": None}}, "budget.money is missing", "prices"),
    ({"budget": {"tokens": None}}, "budget.tokens is missing"),
    ({"endpoint": {"input_price": 0, "output_price": 0}}, "budget.money is set", "price"),
    ({"prompts": {"examples": "nowhere.jsonl"}}, "nowhere.jsonl", "cannot be read"),
    ({"prompts": {"category_files": ["nowhere.yaml"]}}, "nowhere.yaml", "cannot be read"),
    ({"filter": {"decontaminate": ["nowhere.jsonl"]}}, "nowhere.jsonl", "cannot be read"),
    ({"filter": {"domain_words": "nowhere.txt"}}, "nowhere.txt", "cannot be read"),
    ({"filter": {"similar_above": 1.5}}, "filter.similar_above is 1.5"),
    ({"filter": {"stages": 1}}, "filter.stages is 1"),
    ({"endpoint": {"modle": "x"}}, "unknown key endpoint.modle", "known are base_url, model"),
    ({"endpoint": {"model": ""}}, "endpoint.model is missing"),
    ({"endpoint": {"base_url": "localhost"}}, "endpoint.base_url", "http://"),
    ({"endpoint": {"base_url": "http://me:secret@host/v1"}}, "environment variable"),
    ({"endpoint": {"extra": {"n": 3}}}, "endpoint.extra sets n"),
    ({"endpoint": {"json": "xml"}}, "endpoint.json is 'xml'", "schema, object, none"),
    ({"endpoint": {"timeout": 0}}, "endpoint.timeout is 0"),
    ({"verify": {"endpoint": {"modle": "x"}}}, "verify.endpoint.modle"),
    ({"export": {"sources": [{"licence": "MIT"}]}}, "export.sources[0]", "name"),
    ({"prompts": {"count": True}}, "prompts.count is True", "int"),
    ({"prompts": {"count": 0}}, "prompts.count is 0"),
    ({"seed": "x"}, "seed is 'x'", "int"),
    ({"prompts": 3}, "prompts is a int"),
]


@pytest.mark.parametrize(("changes", "words"), [(one[0], one[1:]) for one in BAD], ids=[one[1] for one in BAD])
def test_a_bad_configuration_fails_before_the_first_request(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with Server() as server:
        config = configure(tmp_path, server.start().url, **changes)
        assert main(["data", "build", str(config)]) == 2
        server.shutdown()
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    assert all(word in err for word in ("build.yaml", *words))
    assert "secret" not in err
    assert not server.seen and not (tmp_path / "out").exists()


def test_bad_examples_name_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"category": "recite", "prompt": "Say a, then b.", "sub_instructions": ["say a", "say b"]}
    examples = tmp_path / "examples.jsonl"
    for bad, words in (
        ('{"category": "recite"', "not JSON"),
        (json.dumps(good | {"category": "x"}), "known are two-stage"),
        (json.dumps(good | {"sub_instructions": "say a"}), "sub_instructions is no list"),
        (json.dumps(good | {"checks": [{"stage": 3, "type": "words"}]}), "allowed: 1 to 2"),
        (json.dumps(good | {"checks": [{"stage": 2, "type": "magic"}]}), "unknown check type"),
    ):
        examples.write_text(json.dumps(good) + "\n" + bad + "\n")
        config = configure(tmp_path, "http://127.0.0.1:9/v1", prompts={"examples": str(examples)})
        assert main(["data", "build", str(config)]) == 2
        err = capsys.readouterr().err
        assert "examples.jsonl:2" in err and words in err
    for content, words in (("- {name: x}\n", "category 1"), ("[\n", "not YAML"), ("{}\n", "no list")):
        (tmp_path / "mine.yaml").write_text(content)
        own = {"category_files": [str(tmp_path / "mine.yaml")]}
        assert main(["data", "build", str(configure(tmp_path, "http://127.0.0.1:9/v1", prompts=own))]) == 2
        err = capsys.readouterr().err
        assert "mine.yaml" in err and words in err
    assert not (tmp_path / "out").exists()


def test_a_second_build_in_the_same_folder_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prosg.utils.store import locked

    config = configure(tmp_path, "http://127.0.0.1:9/v1")
    with locked(tmp_path / "out"):
        assert main(["data", "build", str(config)]) == 2
    assert "another command" in capsys.readouterr().err
