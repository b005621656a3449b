"""Chat templates in commands: training records the one it used, and the others take it from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prosg.checkpoints.load import load_model
from prosg.data.templates import NONE, OWN, TEMPLATES, Turn
from support.chat_models import chat_model
from support.commands import case, status
from support.models import same_encoded

USER = {"role": "user", "content": "Tom saw a cat. Why?"}
SHORT = ("--max-tokens", "6", "--temperature", "0")
SAID = "(another with --template)"

BAD = [
    case("generate start --prompt x --prompt-file rows.jsonl", "--prompt TEXT or --prompt-file FILE or --encoded"),
    case("generate start --prompt-file bad.jsonl", "bad.jsonl:2"),
    case("generate start --prompt-file rows.jsonl --template model", "template is 'model'", "none of its own"),
    case("encode start --out e.safetensors", "--prompt TEXT or --prompt-file FILE"),
    case("encode start --out e.safetensors --prompt x --template alpaca", "'alpaca'", "world, pile, raven, model"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    def command(*words: Any) -> tuple[str, str]:
        capsys.readouterr()
        assert status([str(word) for word in words]) == 0
        out, err = capsys.readouterr()
        return out, err

    return command


def write_rows(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_prompt_is_the_users_turn_under_the_models_own_template(
    chat: Path, tmp_path: Path, run: Callable[..., tuple[str, str]]
) -> None:
    model = load_model(chat)
    out, err = run("generate", chat, "--prompt", USER["content"], *SHORT)
    assert out == model.generate([USER], max_tokens=6, temperature=0.0) + "\n"
    assert err.count("\n") == 1 and f"template: {OWN}, from its files {SAID}" in err
    plain, err = run("generate", chat, "--prompt", USER["content"], "--template", "none", *SHORT)
    assert plain == model.generate(USER["content"], max_tokens=6, temperature=0.0) + "\n" and err == ""
    file = tmp_path / "e.safetensors"
    assert "template: model" in run("encode", chat, "--prompt", USER["content"], "--out", file)[1]
    assert run("generate", chat, "--encoded", file, *SHORT) == (out, "")


def test_a_file_of_prompts_is_answered_line_by_line(
    chat: Path, tmp_path: Path, run: Callable[..., tuple[str, str]]
) -> None:
    talk = [{"role": "system", "content": "be kind"}, USER]
    answered = {"messages": [USER, {"role": "assistant", "content": "say"}]}
    rows = ({"messages": talk, "id": "talk"}, {"prompt": "the code"}, answered, {"text": "User: Tom\n\nAssistant: x"})
    file = write_rows(tmp_path / "messages.jsonl", *rows)
    out, err = run("generate", chat, "--prompt-file", file, *SHORT)
    lines = [json.loads(line) for line in out.splitlines()]
    model = load_model(chat)
    alone = [
        model.generate(p, max_tokens=6, temperature=0.0) for p in (talk, [{**USER, "content": "the code"}], [USER])
    ]
    assert [line["answer"] for line in lines[:3]] == alone
    assert lines[0]["id"] == "talk" and {line["reason"] for line in lines} <= {"end", "length"}
    assert err.count("template: ") == 1
    drawn = ("--temperature", "1.5", "--max-tokens", "5", "--seed", "3")
    first = [json.loads(line) for line in run("generate", chat, "--prompt-file", file, *drawn)[0].splitlines()]
    assert first[0]["answer"] == model.generate(talk, max_tokens=5, temperature=1.5, seed=3)
    encoded = tmp_path / "all.safetensors"
    assert "4 prompts" in run("encode", chat, "--prompt-file", file, "--out", encoded)[0]
    out, _ = run("generate", chat, "--encoded", encoded, *SHORT)
    assert [json.loads(line)["answer"] for line in out.splitlines()][:3] == alone


def test_files_of_conversations_are_scored_under_the_models_own(
    chat: Path, tmp_path: Path, run: Callable[..., tuple[str, str]]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", {"messages": [USER, {"role": "assistant", "content": "say"}]})
    out, err = run("perplexity", chat, file)
    assert json.loads(out)["perplexity"] == pytest.approx(load_model(chat).perplexity([USER], "say"), rel=1e-5)
    assert "template: model" in err


@pytest.mark.parametrize("kind", ["plain", "text", "messages", "named"])
def test_training_records_the_template_that_it_used(
    kind: str, chat: Path, tmp_path: Path, run: Callable[..., tuple[str, str]]
) -> None:
    row = {
        "plain": {"prompt": "Tom saw", "answer": "a cat."},
        "text": {"text": "Question: Tom saw\n\nAnswer: a cat."},
        "messages": {"messages": [USER, {"role": "assistant", "content": "say"}]},
        "named": {"prompt": "Tom saw", "answer": "a cat."},
    }[kind]
    rows = write_rows(tmp_path / "rows.jsonl", *[row] * 4)
    options = ["--optim.steps", 1, "--optim.batch_size", 2, *(["--template", "raven"] if kind == "named" else [])]
    for phase, written in (("finetune", "model"), ("static", "adapter")):
        out = tmp_path / phase
        _, err = run("train", phase, "--model", chat, "--train", rows, "--out", out, *options)
        told = {"text": "pile (another", "messages": "model (another", "named": "raven\n"}
        plain = "none, rows of a prompt and an answer are written as they are (--template model"
        assert f"template: {told.get(kind, plain)}" in err
        trained = load_model(out / written)
        name = {"plain": "none", "text": "pile", "messages": OWN, "named": "raven"}[kind]
        assert trained.template.name == name
        prompt = trained.prepare([[USER]])[0] if kind != "plain" else None
        if kind == "messages":
            assert prompt == load_model(chat).prepare([[USER]])[0]
        elif prompt is not None:
            assert trained.tokenizer is not None
            assert trained.tokenizer.decode(prompt.ids) == TEMPLATES[name].frame([Turn("user", USER["content"])]).text
        else:
            assert trained.template == NONE
    text, err = run("generate", tmp_path / "static" / "adapter", "--prompt", USER["content"], *SHORT)
    adapter = load_model(tmp_path / "static" / "adapter")
    assert (f"template: {adapter.template.name}, as it was trained {SAID}" in err) == (kind != "plain")
    wanted = adapter.generate([USER] if kind != "plain" else USER["content"], max_tokens=6, temperature=0.0)
    assert text.strip() == wanted.strip()
    encoded = adapter.encode([USER])
    assert kind == "plain" or same_encoded(encoded, adapter.encode([USER], template=adapter.template.name))
