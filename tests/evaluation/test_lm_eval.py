"""A model in the lm-evaluation-harness: its `simple_evaluate` on tasks in files, against `ProSG.score` by hand."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from prosg.cli import main
from prosg.model.prosg import ProSG
from prosg.model.scoring import score_answer
from support.models import WORDS, live_model, word_tokenizer
from support.training_folder import make_training_folder

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'prosg[harness]'")

from prosg.data.jinja_template import JinjaTemplate
from prosg.data.templates import OwnTemplate
from prosg.evaluation.lm_eval import HarnessModel

QUESTIONS = [
    {"question": "Tom saw a b", "choices": ["c d", "red.", "a"], "answer": 0},
    {"question": "a b c d a b", "choices": ["big!", "Tom saw a b c"], "answer": 1},
    {"question": "Code:", "choices": ["red. blue.", "why?"], "answer": 1},
    {"question": "saw saw saw saw", "choices": ["Names: Tom", "ab then"], "answer": 0},
    {"question": "then Tom", "choices": ["d", "c"], "answer": 0},
]
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "answer",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}],
    },
    "text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{choices[0]}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["saw", "c d"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks in the harness' own format, with their data beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    for name, task in TASKS.items():
        # The data sets' cache lies here, too: nothing is left in a user's home.
        files = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **task}
        (folder / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML
    return folder


@pytest.fixture(scope="module")
def model() -> ProSG:
    model = live_model("rwkv4", "plus", torch.float32, vocab=len(WORDS))
    model.tokenizer = word_tokenizer()
    return model.eval()


Evaluated = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def evaluated(model: ProSG, tasks: Path) -> Evaluated:
    """The harness' samples of a task, in the order of the questions."""
    known: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}

    def samples(name: str, update: str, batch_size: int = 4) -> list[dict[str, Any]]:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        if (update, batch_size) not in known:
            results = simple_evaluate(
                model=HarnessModel(model, memory=update, batch_size=batch_size),
                tasks=list(TASKS),
                task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
                bootstrap_iters=0,
            )
            assert results is not None
            known[update, batch_size] = results["samples"]
        return sorted(known[update, batch_size][name], key=lambda sample: sample["doc_id"])

    return samples


def by_hand(model: ProSG, prompt: str, answer: str, update: str) -> tuple[float, bool]:
    """One prompt alone, with the core's own calls."""
    encoded = model.encode(prompt)
    if update == "none":
        encoded = encoded.replace(update=None)
    ids, lengths = model.tokenise([answer])
    nll, hits = model.score(encoded, ids, lengths)
    return -float(nll.sum()), bool(hits.all())


@pytest.mark.parametrize(("update", "batch_size"), [("update", 1), ("update", 4), ("none", 4)])
def test_choices_are_scored_as_the_core_scores_them(
    model: ProSG, evaluated: Evaluated, update: str, batch_size: int
) -> None:
    samples = evaluated("choice", update, batch_size)
    for question, sample in zip(QUESTIONS, samples, strict=True):
        for choice, (nats, greedy) in zip(question["choices"], sample["filtered_resps"], strict=True):
            expected = by_hand(model, question["question"], f" {choice}", update)
            assert nats == pytest.approx(expected[0], abs=1e-4)
            assert greedy == expected[1]


def test_the_update_acts_from_the_second_token_on(evaluated: Evaluated) -> None:
    own, none = evaluated("choice", "update"), evaluated("choice", "none")
    for question, a, b in zip(QUESTIONS, own, none, strict=True):
        for choice, one, other in zip(question["choices"], a["filtered_resps"], b["filtered_resps"], strict=True):
            alike = one[0] == pytest.approx(other[0], abs=1e-6)
            assert alike == (len(choice.split()) == 1)


@pytest.mark.parametrize("update", ["update", "none"])
def test_rolling_texts_are_read_after_the_end_token_without_an_update(
    model: ProSG, evaluated: Evaluated, update: str
) -> None:
    for question, sample in zip(QUESTIONS, evaluated("text", update), strict=True):
        text = f"{question['question']} {question['choices'][0]}"
        (nats,) = sample["filtered_resps"]
        assert nats == pytest.approx(by_hand(model, WORDS[0], text, "none")[0], abs=1e-4)


@pytest.mark.parametrize("update", ["update", "none"])
def test_greedy_texts_are_the_generators_own_up_to_a_stop_string(
    model: ProSG, evaluated: Evaluated, update: str
) -> None:
    stops = ["saw", "c d"]
    written = []
    for question, sample in zip(QUESTIONS, evaluated("writing", update), strict=True):
        encoded = model.encode(question["question"])
        encoded = encoded if update == "update" else encoded.replace(update=None)
        (text,) = sample["resps"][0]
        assert text == model.generate(encoded, temperature=0.0, max_tokens=12, stop=stops)[0]
        assert not any(stop in text for stop in stops)
        written.append((text, model.generate(encoded, temperature=0.0, max_tokens=12)[0]))
    assert any(text != unstopped for text, unstopped in written)


def test_long_texts_are_read_in_pieces(model: ProSG) -> None:
    ids = torch.randint(1, len(WORDS), (3, 21))
    lengths = torch.tensor([21, 1, 9])
    encoded = model.encode(["Tom saw", "a b c", "red."])
    nll, hits = model.score(encoded, ids, lengths)
    valid = torch.arange(21) < lengths.unsqueeze(1)
    for chunk in (1, 4, 20, 512):
        scores = score_answer(model.backbone, encoded, ids, lengths, chunk=chunk)
        torch.testing.assert_close(scores.nll, nll, atol=1e-5, rtol=1e-5)
        assert torch.equal(scores.hits & valid, hits & valid)


class Asked(NamedTuple):
    """What the harness hands over, as far as it is looked at."""

    args: tuple[Any, ...]


def test_requests_without_context_or_continuation(model: ProSG) -> None:
    lm = HarnessModel(model, batch_size=2)
    pairs = [("", "Tom saw a"), ("Tom", ""), ("Tom saw", "a b"), ("", "")]
    scores = lm.loglikelihood([Asked(pair) for pair in pairs])
    assert scores[0][0] == pytest.approx(by_hand(model, WORDS[0], "Tom saw a", "none")[0], abs=1e-4)
    assert scores[2][0] == pytest.approx(by_hand(model, "Tom saw", "a b", "own")[0], abs=1e-4)
    assert scores[1] == scores[3] == (0.0, True)
    encoded = model.encode(WORDS[0]).replace(update=None)
    options = {"max_gen_toks": 5}
    assert lm.generate_until([Asked(("", options))]) == model.generate(encoded, temperature=0.0, max_tokens=5)


def test_options_of_writing(model: ProSG) -> None:
    lm = HarnessModel(model, template="world", seed=3)
    plain = lm._sampling({})
    assert (plain.temperature, plain.max_tokens, list(plain.stop)) == (0.0, 256, ["\n\nUser:"])
    drawn = lm._sampling({"do_sample": True, "until": "x", "max_tokens": 7, "top_k": 4, "top_p": 0.5})
    assert (drawn.temperature, drawn.max_tokens, drawn.top_k, drawn.top_p, drawn.seed) == (1.0, 7, 4, 0.5, 3)
    assert list(drawn.stop) == ["x", "\n\nUser:"]
    assert lm._sampling({"temperature": 0.5}).temperature == 0.5
    assert lm._sampling({"temperature": 0.5, "do_sample": False}).temperature == 0
    with pytest.raises(ValueError, match="generation option num_beams is 3.*allowed: 1"):
        lm.generate_until([Asked(("Tom", {"num_beams": 3}))])
    with pytest.raises(ValueError, match="generation option beams is unknown; allowed: until, do_sample"):
        lm.generate_until([Asked(("Tom", {"beams": 1}))])
    nothing = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "early_stopping": True, "n": None}
    assert lm._sampling({"do_sample": False, "temperature": 0.0, "top_k": -1, "top_p": 0, **nothing}) == plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": 5}, "until is 5; it must be of type str"),
        ({"until": ["a", 5]}, r"until\[1\] is 5"),
        ({"max_gen_toks": "many"}, "max_gen_toks is 'many'; it must be of type int"),
        ({"max_gen_toks": 2.5}, "max_gen_toks is 2.5"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0, must be at least 1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": -1}, "temperature is -1"),
        ({"do_sample": "false"}, "do_sample is 'false'; it must be true or false"),
        ({"do_sample": True, "top_k": "x"}, "top_k is 'x'"),
        ({"do_sample": True, "top_p": 2}, "top_p is 2"),
    ],
)
def test_values_that_an_option_of_writing_cannot_have(model: ProSG, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^generation option {message}"):
        HarnessModel(model)._sampling(options)
    assert HarnessModel(model)._sampling({"max_gen_toks": 8.0}).max_tokens == 8


def test_sampled_texts_do_not_depend_on_the_batch_size(model: ProSG) -> None:
    options = {"do_sample": True, "max_gen_toks": 12}
    requests = [Asked((text, options)) for text in ("Tom saw", "a b c", "Tom saw", "Tom saw")]
    written = [HarnessModel(model, batch_size=size, seed=1).generate_until(requests) for size in (1, 3, 16)]
    assert written[0] == written[1] == written[2]
    assert len({written[0][0], written[0][2], written[0][3]}) == 3  # a question that is asked again is answered anew
    assert written[0] == model.generate([one.args[0] for one in requests], temperature=1.0, max_tokens=12, seed=1)


def test_conversations_are_framed_by_the_template(model: ProSG) -> None:
    lm = HarnessModel(model, template="world")
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi."}]
    assert lm.apply_chat_template(turns) == "System: Be short.\n\nUser: Hi.\n\nAssistant:"
    assert lm.chat_template(True) == "world"
    assert lm.tokenizer_name == f"{model.tokenizer.fingerprint}-{model.special}-world"
    with pytest.raises(ValueError, match="ends with the assistant's cue"):
        lm.apply_chat_template(turns, add_generation_prompt=False)


def test_a_task_spells_no_special_tokens_and_a_template_does() -> None:
    model = live_model("rwkv4", "plus", torch.float32, vocab=len(WORDS))
    spelled = WORDS[0]
    model.tokenizer = word_tokenizer([spelled])
    model.own_template = OwnTemplate(
        JinjaTemplate("{{ messages[0]['content'] }}", {}, model.tokenizer.special_tokens, "x")
    )
    lm = HarnessModel(model, template="model")
    plain = lm._prompt(spelled)
    assert plain == model.special.prompt(model.tokenizer.encode(spelled))
    assert lm._prompt(lm.apply_chat_template([{"role": "user", "content": "Hi."}])) != plain
    assert lm._prompt(spelled) == [model.tokenizer.token_id(spelled)]


def test_models_and_options_that_do_not_fit(model: ProSG) -> None:
    bare = live_model("rwkv4", None, torch.float32, vocab=len(WORDS))
    with pytest.raises(ValueError, match="has no tokenizer"):
        HarnessModel(bare)
    bare.tokenizer = word_tokenizer()
    with pytest.raises(ValueError, match="has no module that makes updates; allowed: none, anchor"):
        HarnessModel(bare, memory="update")
    with pytest.raises(ValueError, match="batch size is 0"):
        HarnessModel(model, batch_size=0)
    with pytest.raises(ValueError, match="template is 'x'"):
        HarnessModel(model, template="x")


# -- the command


@pytest.fixture(autouse=True)
def _own_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness' own thousands of task files take half a minute to look through."""
    import lm_eval.tasks

    known = lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda include_path, **_: known(None, include_path, False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone of random weights, `start`."""
    folder = tmp_path_factory.mktemp("workshop")
    make_training_folder(folder)
    return folder


def test_the_command_runs_tasks_and_writes_results(
    folder: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "more" / "results.json"
    options = ["--include_path", tasks, "--limit", 3, "--bootstrap_iters", 0, "--out", out, "--log_samples"]
    command = ["lm-eval", folder / "start", "--tasks", "choice,text", "writing", *options]
    assert main([str(part) for part in command]) == 0
    assert "|choice" in capsys.readouterr().out
    results = json.loads(out.read_text())
    assert set(results["results"]) == {"choice", "text", "writing"}
    assert math.isfinite(results["results"]["text"]["word_perplexity,none"])
    assert results["config"]["memory"] == "none"
    assert results["config"]["limit"] == 3
    assert len(results["samples"]["choice"]) == 3
    assert not list(out.parent.glob("*.tmp"))


REFUSED: dict[str, tuple[list[str], str]] = {
    "task": (["--tasks", "no_such_task"], "unknown task 'no_such_task'"),
    "folder": (["--tasks", "choice", "--include_path", "nowhere"], "--include-path nowhere: is not a folder"),
    "limit": (["--tasks", "choice", "--limit", "1.5"], "--limit is 1.5, must be a whole number"),
    "negative limit": (["--tasks", "choice", "--limit=-1"], "--limit is -1, must be"),
    "batch": (["--tasks", "choice", "--batch-size", "0"], "--batch-size is 0, must be at least 1"),
    "few": (["--tasks", "choice", "--num-fewshot=-1"], "--num-fewshot is -1, must be at least 0"),
    "resamples": (["--tasks", "choice", "--bootstrap-iters=-1"], "--bootstrap-iters is -1, must be at least 0"),
    "seed": (["--tasks", "choice", "--seed=-1"], "--seed is -1, must be at least 0"),
    "greatest seed": (["--tasks", "choice", "--seed", str(2**32)], "--seed is 4294967296, must be at most 4294967295"),
    "out": (["--tasks", "choice", "--out", "."], "--out .: is a folder"),
    "samples": (["--tasks", "choice", "--log_samples"], "--log-samples needs --out"),
    "predictions": (["--tasks", "choice", "--predict_only"], "--predict-only needs --log-samples"),
    "template": (["--tasks", "choice", "--apply_chat_template"], "needs --template: world, pile or raven"),
    "memory": (["--tasks", "choice", "--memory", "mean"], "argument --memory: 'mean' is unknown; allowed: none,"),
    "module": (["--tasks", "choice", "--memory", "update"], "has no module"),
    "option": (["--tasks", "choice", "--num_beams", "2"], "--num-beams"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_command_refuses_in_one_line(
    name: str, folder: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = REFUSED[name]
    if "--include_path" not in options:
        options = [*options, "--include_path", str(tasks)]
    try:
        status = main(["lm-eval", str(folder / "start"), *options])
    except SystemExit as end:
        status = int(end.code or 0)
    captured = capsys.readouterr().err
    assert status == 2
    errors = [line for line in captured.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_task_may_be_a_file(folder: Path, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["lm-eval", str(folder / "start"), "--tasks", str(tasks / "choice.yaml"), "--limit", "1"]
    assert main([*command, "--bootstrap_iters", "0"]) == 0
    assert "|choice" in capsys.readouterr().out


@pytest.mark.parametrize("by_name", [True, False])
def test_a_broken_task_is_no_unknown_one(
    by_name: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: mine\ndoc_to_text: [a\n")
    options = ["--tasks", "mine", "--include-path", str(tmp_path)] if by_name else ["--tasks", str(file)]
    assert main(["lm-eval", str(folder / "start"), *options]) == 2
    assert f"error: {file}:3: not YAML" in capsys.readouterr().err


def test_without_lm_eval_the_command_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "prosg.evaluation.lm_eval")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    assert main(["lm-eval", str(folder / "start"), "--tasks", "choice"]) == 2
    assert "pip install 'prosg[harness]'" in capsys.readouterr().err
