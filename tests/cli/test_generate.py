"""`prosg generate`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prosg.checkpoints.initial_state import save_initial
from prosg.checkpoints.load import load_model
from prosg.model.initial_state import InitialState
from support.commands import case

FRAMED = "Question: Say.\n\nAnswer:"
GENERATE = "generate plus --prompt x --max-tokens 3"

BAD = [
    case("generate plus --encoded plus", "plus: is a folder; name a file"),
    case("generate plus --encoded one.safetensors --tau 4", "tau is 4, but memory is 'update'"),
    case("generate plus", "empty", more=("--prompt", "")),
    case("generate plus", "--prompt", "UTF-8", more=("--prompt", "a\udcff")),
    case("generate plus", "--prompt", "--encoded"),
    case("generate plus --prompt x --encoded hello.safetensors", "--prompt", "--encoded"),
    case("generate start --encoded hello.safetensors", "hello.safetensors", "another model", "encode"),
    case("generate plus --encoded cut.safetensors", "cut.safetensors", "truncated"),
    case("generate plus --encoded nowhere.safetensors", "no such file"),
    case("generate plus --encoded start/model.safetensors", "prosg encode"),
    case("generate plus --encoded hello.safetensors --state odd.pth", "--state", "--encoded"),
    case(f"{GENERATE} --template alpaca", "'alpaca'", "none, world, pile, raven, model"),
    case(f"{GENERATE} --temperature -1", "temperature is -1.0"),
    case(f"{GENERATE} --temperature hot", "--temperature", "hot", "float"),
    case(f"{GENERATE} --tem 1", "--tem"),
    case(f"{GENERATE} --top-p 0", "--top-p is 0.0"),
    case(f"{GENERATE} --top-k -1", "--top-k is -1"),
    case(f"{GENERATE} --window 0", "window is 0"),
    case(f"{GENERATE} --hold-until 2", "--hold-until", "--force-marker"),
    case(f"{GENERATE} --nonsense", "--nonsense"),
    case("generate plus --prompt x --max-tokens 0", "--max-tokens is 0"),
    case(GENERATE, "stop", "empty", more=("--stop", "")),
    case(f"{GENERATE} --late-temperature 0.5", "--late-temperature is for --force-marker"),
    case(f"{GENERATE} --refresh-keep 9", "--refresh-keep is for --refresh-every"),
    case(f"{GENERATE} --memory update --anchor x", "--anchor is for --memory anchor, both or auto", "update"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_generate_is_what_the_model_generates(output: Callable[..., str]) -> None:
    options = {"max_tokens": 12, "temperature": 0.9, "top_k": 20, "top_p": 0.9, "seed": 4}
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    text = output("generate", "plus", "--prompt", "Tell a story.", *flags)
    assert text == load_model("plus").generate(["Tell a story."], **options)[0] + "\n"
    assert output("generate", "plus", "--prompt", "Tell a story.", *flags) == text
    assert output("generate", "plus", "--prompt", "Tell a story.", *flags, "--seed", "5") != text
    cut = output("generate", "plus", "--prompt", "Tell a story.", *flags, "--stop", text[3])
    assert cut == text[: text.index(text[3])] + "\n"


def test_from_a_file_and_without_an_update(output: Callable[..., str]) -> None:
    flags = ("--max-tokens", "12", "--temperature", "0")
    answer = output("generate", "plus", "--prompt", "Hello.", *flags)
    assert output("generate", "plus", "--encoded", "hello.safetensors", *flags) == answer
    bare = output("generate", "start", "--prompt", "Hello.", *flags)
    assert output("generate", "plus", "--prompt", "Hello.", "--no-update", *flags) == bare
    assert output("generate", "plus", "--encoded", "hello.safetensors", "--no-update", *flags) == bare


def test_the_marker_is_held_back_and_forced(output: Callable[..., str]) -> None:
    text = output(
        "generate", "plus", "--prompt", "Hello.", "--hold-until", "2", "--force-marker", r"\nCode:",
        "--max-tokens", "400", "--temperature", "1.5",
    )  # fmt: skip
    assert text.count("\nCode:") == 1


def test_prompts_may_begin_from_a_learned_state(tmp_path: Path, output: Callable[..., str]) -> None:
    model = load_model("start")
    model.initial = InitialState(model.backbone)
    with torch.no_grad():
        for learned in model.initial.layers:
            learned += torch.tensor([[3.0], [6.0]])
    save_initial(model.initial, tmp_path / "state.pth")
    state, flags = ("--state", tmp_path), ("--max-tokens", "12", "--temperature", "0")
    text = output("generate", "start", "--prompt", "Hello.", *flags, *state)
    assert text == model.generate(["Hello."], max_tokens=12, temperature=0.0)[0] + "\n"
    assert text != output("generate", "start", "--prompt", "Hello.", *flags)
    encoded = tmp_path / "e.safetensors"
    output("encode", "start", "--prompt", "Hello.", "--out", encoded, *state)
    assert output("generate", "start", "--encoded", encoded, *flags) == text
    score = ("perplexity", "start", "validation.jsonl")
    assert output(*score) != output(*score, *state)


def test_a_typed_prompt_is_framed_and_the_reply_is_not(tmp_path: Path, output: Callable[..., str]) -> None:
    more = ("--max-tokens", 40, "--temperature", 1.0, "--seed", 3)
    by_hand = output("generate", "start", "--prompt", FRAMED, *more)
    framed = output("generate", "start", "--prompt", "Say.", "--template", "pile", *more)
    assert framed in (by_hand, by_hand.removeprefix(" "))
    file = tmp_path / "prompt.safetensors"
    output("encode", "start", "--prompt", "Say.", "--template", "pile", "--out", file)
    assert output("generate", "start", "--encoded", file, *more) == by_hand


def test_a_reply_ends_where_the_next_turn_would_begin(
    output: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stops: list[object] = []

    def stream(self: object, encoded: object, **sampling: object) -> list[tuple[int, str]]:
        stops.append(sampling["stop"])
        return [(0, piece) for piece in ("", " ", " Tree", ".")]

    monkeypatch.setattr("prosg.model.prosg.ProSG.stream", stream)
    command = ("generate", "start", "--prompt", "Say.", "--stop", "x")
    assert output(*command, "--template", "world") == " Tree.\n"
    assert output(*command) == "  Tree.\n"
    assert stops == [["x", "\n\nUser:"], ["x"]]


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_prompt(
    monkeypatch: pytest.MonkeyPatch, output: Callable[..., str]
) -> None:
    def answer(text: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return output("generate", "start", "--prompt", "-", "--max-tokens", "12", "--temperature", "0")

    assert answer("\ufeffHello,\r\nyou.\r\n") == answer("Hello,\nyou.\n")


def test_a_window_is_for_the_memory_that_a_file_has(tmp_path: Path, output: Callable[..., str]) -> None:
    file, answer = tmp_path / "both.safetensors", ("--max-tokens", 9, "--temperature", 0)
    output("encode", "plus", "--prompt", "Hello.", "--memory", "both", "--out", file)
    told = output("generate", "plus", "--encoded", file, "--memory", "both", "--tau", 4, *answer)
    assert output("generate", "plus", "--encoded", file, "--tau", 4, *answer) == told
