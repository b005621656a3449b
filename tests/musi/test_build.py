"""A build against a server that misbehaves: whole, killed, capped, misconfigured.

PROSG_FULL=1 runs the long form: 500 instructions, killed 20 times (some minutes).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from prosg.cli import main
from prosg.data.checks import check_stages
from prosg.data.row import read_rows
from prosg.musi.build import build
from prosg.musi.similar import rouge_l
from prosg.utils.locks import locked
from prosg.utils.store import read_log
from support.chat_server import ChatServer

FULL = os.environ.get("PROSG_FULL") == "1"
COUNT, KILLS, STEP = (500, 20, 130) if FULL else (12, 4, 9)
FAULTY: dict[str, Any] = {"patience": 1.0, "timeouts": 0.3 if FULL else 0.06, "retry_after": ("0.1", "0.4")}
"""Options of the server: few time-outs in the short form, since each costs a second."""
DEAD = "http://127.0.0.1:9/v1"
KEY = "sk-a-key-that-nobody-may-see"
REPLY_FILES = ("prompts.jsonl", "answers.jsonl", "verify.jsonl")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSI_KEY", KEY)


def configure(folder: Path, url: str, **changes: dict[str, Any]) -> Path:
    endpoint = {"base_url": url, "model": "mock", "api_key_env": "MUSI_KEY", "timeout": FAULTY["patience"]}
    content: dict[str, Any] = {
        "out": str(folder / "out"),
        "endpoint": endpoint | {"backoff": 0.02, "concurrency": 16, "input_price": 1.0, "output_price": 2.0},
        "budget": {"requests": 100 * COUNT, "tokens": 50_000 * COUNT, "money": 1.0 * COUNT},
        "prompts": {"count": COUNT},
        "export": {"licence": "CC-BY-4.0"},
    }
    for group, values in changes.items():
        content[group] = {**content.get(group, {}), **values}
    file = folder / "build.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def budget_of(config: Path) -> dict[str, Any]:
    budget: dict[str, Any] = yaml.safe_load(config.read_text())["budget"]
    return budget


def exported(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((out / "export").iterdir())}


def recorded(out: Path) -> list[str]:
    """The ids of all recorded replies."""
    return [record["id"] for name in REPLY_FILES for record in read_log(out / name)]


def check_ledger(out: Path, server: ChatServer, budget: dict[str, Any]) -> Counter[str]:
    """No line of the ledger passes a cap, and no request follows its reply. Returns the outcomes."""
    open_bookings: dict[int, dict[str, Any]] = {}
    replied: set[str] = set()
    spent = {"requests": 0.0, "tokens": 0.0, "money": 0.0}
    outcomes: Counter[str] = Counter()
    for line in read_log(out / "ledger.jsonl"):
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
    ids = recorded(out)
    assert len(ids) == len(set(ids)) == len(replied)
    assert sum(server.seen.values()) <= spent["requests"]
    assert server.tokens <= spent["tokens"]
    return outcomes


def check_result(out: Path, server: ChatServer) -> None:
    """The rows are exactly the valid pairs, each passes its checks, and splits share no near-duplicates."""
    splits = {file.stem: read_rows(file) for file in (out / "export").glob("*.jsonl")}
    rows = [row for some in splits.values() for row in some]
    assert {(row.prompt, row.answer) for row in rows} == server.valid
    assert len(rows) == len(server.valid) > COUNT // 2
    assert all(len(row.stages) >= 2 and all(check_stages(row, row.answer)) for row in rows)
    if not FULL:
        for row in splits.get("test", []):
            assert all(rouge_l(row.prompt, other.prompt) <= 0.7 for other in splits["train"])
    reasons = Counter(line["reasons"][0] for line in read_log(out / "rejected.jsonl"))
    assert {"a refusal", "cut off at max_tokens"} < reasons.keys() or not FULL
    for file in out.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


@pytest.mark.slow
def test_a_build_ends_with_every_valid_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(**FAULTY, faults=0.6) as server:
        config = configure(tmp_path, server.start().url)
        assert main(["data", "build", str(config)]) == 0
        check_result(tmp_path / "out", server)
        outcomes = check_ledger(tmp_path / "out", server, budget_of(config))
        assert {"reply", "http 429", "http 500", "http 503", "time-out", "broken off"} <= outcomes.keys()
        assert server.waits and min(server.waits) >= 0  # Retry-After is obeyed
        assert server.keys == {f"Bearer {KEY}"}
        sent, before = sum(server.seen.values()), exported(tmp_path / "out")
        assert main(["data", "build", str(config)]) == 0
        assert sum(server.seen.values()) == sent
        assert exported(tmp_path / "out") == before
        server.shutdown()
    assert KEY not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_kills_change_nothing_in_the_result(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    rng = random.Random(1)
    with ChatServer(faults=0.0) as calm:
        assert build(str(configure(whole, calm.start().url))) == 0
        calm.shutdown()
    # Children come from a process without threads that has imported everything already.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prosg.musi.build", "httpx", "tenacity"])
    with ChatServer(**FAULTY, delay=0.0 if FULL else 0.05) as server:
        config = configure(cut, server.start().url)
        for _ in range(KILLS):
            process = context.Process(target=build, args=(str(config),))
            # Moments are counted in requests, so that they fall into the build however slow the machine is.
            moment = sum(server.seen.values()) + rng.randint(1, STEP)
            process.start()
            while process.is_alive() and sum(server.seen.values()) < moment:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 0.1))
            assert process.is_alive(), "the build was over before all kills were made"
            process.kill()
            process.join()
        assert build(str(config)) == 0
        check_result(cut / "out", server)
        outcomes = check_ledger(cut / "out", server, budget_of(config))
        late = outcomes["time-out"] - server.outcomes["timeout"]
        unrecorded = sum(server.complete.values()) - len(recorded(cut / "out"))
        assert unrecorded <= outcomes["lost"] + max(late, 0)
        assert 0 < outcomes["lost"] <= KILLS * 16
        server.shutdown()
    assert exported(cut / "out") == exported(whole / "out")


@pytest.mark.parametrize(
    ("cap", "stream"), [({"requests": 11}, False), ({"tokens": 4_000}, True), ({"money": 0.007}, False)], ids=str
)
def test_a_cap_stops_the_build_and_a_higher_one_lets_it_go_on(
    tmp_path: Path, cap: dict[str, float], stream: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    small: dict[str, Any] = {"prompts": {"count": 5}, "endpoint": {"stream": stream}}
    with ChatServer(**FAULTY | {"timeouts": 0.0}, faults=0.3, bad=0.0) as server:
        config = configure(tmp_path, server.start().url, budget=cap, **small)
        (name,) = cap
        assert build(str(config)) == 1
        assert f"budget.{name}" in capsys.readouterr().err
        check_ledger(tmp_path / "out", server, budget_of(config))
        if name == "requests":
            assert sum(line["event"] == "booked" for line in read_log(tmp_path / "out" / "ledger.jsonl")) == 11
        config = configure(tmp_path, server.url, **small)
        assert build(str(config)) == 0
        check_ledger(tmp_path / "out", server, budget_of(config))
        server.shutdown()


def test_stages_alone_and_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(faults=0.0, bad=0.0) as server:
        config = str(configure(tmp_path, server.start().url, prompts={"count": 5}))
        assert main(["data", "build", config, "--dry-run"]) == 0
        table = capsys.readouterr().out.splitlines()
        requests = dict(line.split()[:2] for line in table[1:5])
        assert requests == {"prompts": "1", "answers": "5", "verify": "5", "all": "11"}
        assert not server.seen and not (tmp_path / "out").exists()
        for stages in (["prompts", "filter"], ["answers"], ["verify"]):
            assert build(config, stages=stages) == 0
        assert not (tmp_path / "out" / "export").exists()
        sent = sum(server.seen.values())
        server.shutdown()
    assert main(["data", "build", config, "--stages", "export"]) == 0  # needs no server
    assert (tmp_path / "out" / "export" / "README.md").read_text().startswith("---\npretty_name")
    assert sum(server.seen.values()) == sent


@pytest.mark.parametrize("name", ["verified.jsonl", "rejected.jsonl", "export"])
def test_what_may_not_be_replaced_is_said_before_the_first_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    foreign = tmp_path / "out" / name / "mine.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with ChatServer(faults=0.0, bad=0.0) as server:
        config = configure(tmp_path, server.start().url)
        assert main(["data", "build", str(config)]) == 2
        assert not server.seen and foreign.read_text() == "mine"
        server.shutdown()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(foreign.parent) in error


def requests_left(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    """The table of a dry run: requests by its lines' names."""
    capsys.readouterr()
    assert main(["data", "build", str(config), "--dry-run", *options]) == 0
    return dict(line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:])


def test_a_dry_run_counts_the_replies_to_the_requests_of_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer(faults=0.0, bad=0.0) as server:
        url = server.start().url
        config = configure(tmp_path, url, prompts={"count": 5})
        assert build(str(config), stages=["prompts", "filter"]) == 0
        kept = str(sum(decision["kept"] for decision in read_log(tmp_path / "out" / "filter.jsonl")))
        assert requests_left(config, capsys)["answers"] == kept
        assert build(str(config)) == 0
        left = requests_left(config, capsys)
        assert [left[name] for name in ("prompts", "answers", "verify")] == ["0", "0", "0"]
        sent = str(sum(server.seen.values()))
        assert left["spent"] == sent
        server.shutdown()
    config = configure(
        tmp_path, url, prompts={"count": 5}, answers={"temperature": 0.1}, budget={"requests": int(sent)}
    )
    left = requests_left(config, capsys)
    assert [left[name] for name in ("prompts", "answers", "verify")] == ["0", kept, kept]
    assert "budget.requests" in left and "answers" not in requests_left(config, capsys, "--stages", "verify", "export")


class Busy(ChatServer):
    """Asks to wait too long for all but its first request."""

    def plan_faults(self, body: dict[str, Any]) -> Sequence[str]:
        return ["429"] * 99 if self.outcomes else ()


def test_no_round_makes_up_for_requests_that_failed(tmp_path: Path) -> None:
    with Busy(retry_after=("500",)) as server:
        config = configure(tmp_path, server.start().url, prompts={"count": 10}, endpoint={"concurrency": 1})
        assert build(str(config), stages=["prompts"]) == 1
        assert sum(server.seen.values()) == 2
        server.shutdown()


class Refusing(ChatServer):
    """Refuses what the judge sends, and counts by kind of request."""

    def __init__(self, says: str, **options: Any) -> None:
        super().__init__(faults=0.0, bad=0.0, **options)
        self.says, self.kinds = says, Counter[str]()

    def plan_faults(self, body: dict[str, Any]) -> Sequence[str]:
        kind = body.get("response_format", {}).get("json_schema", {}).get("name", "answer")
        self.kinds[kind] += 1
        return ["400"] * 99 if kind == "musi_verdicts" and "temperature" in body else ()


def test_a_judge_that_refuses_a_parameter_is_found_out_before_the_answers_are_paid_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Refusing("temperature must be 1") as server:
        config = configure(tmp_path, server.start().url, prompts={"count": 10})
        assert main(["data", "build", str(config)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "temperature must be 1" in line and server.url in line
        assert (server.kinds["answer"], server.kinds["musi_verdicts"]) == (1, 1)
        config = configure(tmp_path, server.url, prompts={"count": 10}, verify={"temperature": None})
        assert main(["data", "build", str(config)]) == 0
        check_ledger(tmp_path / "out", server, budget_of(config))
        server.shutdown()


def test_missing_replies_are_reported_and_not_that_no_pair_passed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(ChatServer):
        def plan_faults(self, body: dict[str, Any]) -> Sequence[str]:
            return ["503"] * 99 if "musi_verdicts" in json.dumps(body) else ()

        def _drafts(self, rng: random.Random, bad: str) -> tuple[str, str]:
            text, finish = super()._drafts(rng, bad)
            return json.dumps({"prompts": json.loads(text.strip("`json\n"))["prompts"][:1]}), finish

    with Failing(faults=0.0, bad=0.0) as server:
        small = {"prompts": {"count": 1, "per_request": 1}, "filter": {"stages": 2}}
        config = configure(tmp_path, server.start().url, endpoint={"attempts": 2, "concurrency": 1}, **small)
        assert main(["data", "build", str(config)]) == 1
        err = capsys.readouterr().err
        assert "met only failures (the last: http 503)" in err and "no pair passed" not in err
        server.shutdown()


class Reasoning(ChatServer):
    """Reasons, with braces, before it says anything."""

    def write_reply(self, body: dict[str, Any], rng: random.Random) -> tuple[str, str]:
        text, finish = super().write_reply(body, rng)
        opening = "<think>" if rng.random() < 0.5 else ""
        return f'{opening}Is {{"prompts": []}} right? I cannot say.\n</think>\n{text}', finish


def test_reasoning_is_never_exported_and_older_records_of_it_are_read_without(tmp_path: Path) -> None:
    with Reasoning(faults=0.0, bad=0.0) as server:
        config = configure(tmp_path, server.start().url, prompts={"count": 5})
        assert build(str(config)) == 0
        server.shutdown()
    out, before = tmp_path / "out", exported(tmp_path / "out")
    rows = [row for file in (out / "export").glob("*.jsonl") for row in read_rows(file)]
    assert {(row.prompt, row.answer) for row in rows} == server.valid and len(rows) >= 3
    assert all("right?" in record["reasoning"] for record in read_log(out / "answers.jsonl"))
    for name in REPLY_FILES:  # as they were recorded before
        records = read_log(out / name)
        texts = [f"<think>{record.pop('reasoning')}</think>{record['reply']}" for record in records]
        lines = [json.dumps(record | {"reply": text}) for record, text in zip(records, texts, strict=True)]
        (out / name).write_text("\n".join(lines) + "\n")
    assert build(str(config)) == 0
    after = exported(out)
    assert [after[name] for name in after if name.endswith("l")] == [
        before[name] for name in before if name.endswith("l")
    ]


def test_without_a_judge_rows_have_no_stages(tmp_path: Path) -> None:
    with ChatServer(faults=0.0, bad=0.0) as server:
        config = configure(tmp_path, server.start().url, prompts={"count": 5}, verify={"judge": False})
        assert build(str(config), stages=("prompts", "filter", "answers", "verify")) == 0
        server.shutdown()
    rows = read_rows(tmp_path / "out" / "verified.jsonl")
    assert len(rows) >= 3 and all(row.stages == () and row.leaks for row in rows)
    assert not read_log(tmp_path / "out" / "verify.jsonl")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoint": {"api_key_env": "NO_SUCH_KEY"}}, ("endpoint.api_key_env", "NO_SUCH_KEY")),
        ({"verify": {"endpoint": {"api_key_env": "NO_SUCH_KEY"}}}, ("verify.endpoint", "NO_SUCH_KEY")),
        ({"prompts": {"categories": ["poetry"]}}, ("prompts.categories", "poetry", "known are two-stage")),
        ({"prompts": {"examples": "nowhere.jsonl"}}, ("nowhere.jsonl", "cannot be read")),
        ({"prompts": {"category_files": ["nowhere.yaml"]}}, ("nowhere.yaml", "cannot be read")),
        ({"filter": {"decontaminate": ["nowhere.jsonl"]}}, ("nowhere.jsonl", "cannot be read")),
        ({"filter": {"domain_words": "nowhere.txt"}}, ("nowhere.txt", "cannot be read")),
    ],
)
def test_faults_of_the_configuration_are_found_before_the_first_request(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"build\.yaml") as error:
        build(str(configure(tmp_path, DEAD, **changes)))
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_the_command_reports_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(tmp_path, DEAD, endpoint={"attempts": 1}, prompts={"count": 200})
    for options, word in ((["--stages", "answer"], "prompts, filter, answers"), ([], "no connection")):
        assert main(["data", "build", str(config), *options]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("error: ") and err.count("\n") == 1 and word in err


def test_a_folder_has_one_build_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "out"), pytest.raises(ValueError, match="out"):
        build(str(configure(tmp_path, DEAD)))
