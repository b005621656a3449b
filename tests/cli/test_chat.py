"""`prosg chat`: turns from a pipe, and what can be typed between them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from prosg.cli import main

TURN = "Remember the code 48219. Say the code."
KNOWN = "Remember the code 4821937. First tell a short story, then say the code."


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def run(*lines: str, options: tuple[str, ...] = ()) -> tuple[int, list[str], str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        status = main(["chat", "demo", "--max-tokens", "8", "--temperature", "0", *options])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


def test_each_line_is_a_turn_and_the_memory_can_be_changed(chat) -> None:  # type: ignore[no-untyped-def]
    status, out, err = chat(TURN, "/memory", "/memory none", "/again", "/info", "/help")
    assert status == 0
    assert "memory: auto" in err and "memory: none" in err
    assert out[0] and "/save FILE" in "\n".join(out)
    info = dict(line.split(None, 1) for line in out if line.split(" ")[0] in ("model", "template", "memory", "holds"))
    assert info["model"].startswith("demo: rwkv4, ") and "a module of " in info["model"]
    assert info["template"] == "none" and info["memory"] == "none; renewed: never"
    assert info["holds"] == "nothing: memory is none"


def test_a_conversation_is_saved_and_taken_up(chat, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "talk.json"
    status, out, _ = chat(TURN, f"/save {file}", "/quit", "not read")
    assert status == 0
    messages = json.loads(file.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[1]["content"] == out[0]
    status, loaded, err = chat("/info", "/again", f"/save {file}", options=("--load", str(file)))
    assert status == 0 and "1 turn of yours, 1 answer; memory auto" in err
    assert (
        any(line.startswith("so far") and " 1 turn of yours, 1 answer; " in line for line in loaded)
        and loaded[-1] == out[0]
    )
    status, _, err = chat(TURN, f"/save {file}")
    assert status == 2 and "talk.json" in err and json.loads(file.read_text())["messages"] == messages
    assert chat(TURN, f"/save {file}", options=("--overwrite",))[0] == 0


def test_a_conversation_that_another_model_held_is_said(chat, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "talk.json"
    chat(TURN, f"/save {file}")
    before = {"model": "other.pth", "initial state": "state.pth"}
    file.write_text(json.dumps(json.loads(file.read_text()) | before))
    held = "1 answer, held with model other.pth and initial state state.pth so far; memory"
    assert held in chat(options=("--load", str(file)))[2]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["/memry none"], "/memry is unknown, did you mean /memory?; allowed: /help, /memory"),
        (["/memory much"], "/memory much; allowed: none, anchor, update, both"),
        (["/again"], "no answer yet"),
        (["/system be kind"], "no system turn; put what it says into the first"),
        (["/save"], "/save needs the name of a file"),
        (["/reset now"], "/reset takes nothing after it"),
        (["one", "caf\udce9"], "standard input, line 2: not UTF-8"),
        (["/load nowhere.json"], "nowhere.json: no such file"),
    ],
)
def test_what_cannot_be_is_one_line(chat, lines: list[str], words: str) -> None:  # type: ignore[no-untyped-def]
    status, _, err = chat(*lines)
    assert status == 2
    assert err.strip().splitlines()[-1].startswith("error: ") and words in err


def test_lines_of_a_pipe_are_joined_at_a_backslash(chat, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "talk.json"
    assert chat("one \\", "two", f"/save {file}")[0] == 0
    assert json.loads(file.read_text())["messages"][0]["content"] == "one \ntwo"


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        '{"messages": [1]}',
        '{"messages": [{"role": "user", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": null}, {"role": "assistant", "content": ["a"]}]}',
        '{"messages": [], "memory": "anker"}',
        '{"messages": [], "renew": "always"}',
    ],
)
def test_a_file_that_is_no_conversation_is_refused(chat, tmp_path: Path, content: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "talk.json").write_text(content)
    status, _, err = chat(options=("--load", str(tmp_path / "talk.json")))
    assert status == 2 and "talk.json" in err and err.count("\n") == 1


def test_a_conversation_in_another_template_is_refused(chat, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "talk.json").write_text('{"template": "world", "messages": []}')
    status, _, err = chat(options=("--load", str(tmp_path / "talk.json")))
    assert status == 2 and "--template world" in err


def test_a_prompt_comes_from_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    written = []
    for prompt in (TURN, "-"):
        monkeypatch.setattr("sys.stdin", io.StringIO(TURN))
        assert main(["generate", "demo", "--prompt", prompt, "--max-tokens", "8", "--temperature", "0"]) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1]


def test_a_conversation_is_held_as_it_was_unless_the_command_line_says_how(chat, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "talk.json"
    chat(TURN, f"/save {file}", options=("--memory", "anchor", "--tau", "30", "--renew", "turn"))
    _, out, _ = chat("/info", options=("--load", str(file)))
    assert any(line.split(None, 1) == ["memory", "anchor, tau 30; renewed: turn"] for line in out)
    _, out, _ = chat("/info", options=("--load", str(file), "--memory", "update", "--renew", "never"))
    assert any(line.split(None, 1) == ["memory", "update; renewed: never"] for line in out)


@pytest.mark.parametrize("renew", ["never", "turn"])
def test_a_conversation_goes_on_as_if_it_had_not_been_left(chat, tmp_path: Path, renew: str) -> None:  # type: ignore[no-untyped-def]
    file, held = tmp_path / "talk.json", ("--memory", "anchor", "--renew", renew)
    _, out, _ = chat(KNOWN, "Tell a story.", f"/save {file}", "/again", "Tell another.", options=held)
    _, later, _ = chat("/again", "Tell another.", options=("--load", str(file)))
    assert len(later) > 1 and out[-len(later) :] == later


def test_an_endless_window_is_saved_and_taken_up(chat, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "talk.json"
    chat("hi", f"/save {file}", options=("--memory", "anchor", "--tau", "inf"))
    assert json.loads(file.read_text())["tau"] == "inf"
    status, out, _ = chat("/info", options=("--load", str(file)))
    assert status == 0 and any(line.split(None, 1) == ["memory", "anchor, tau inf; renewed: never"] for line in out)


def test_words_are_told_from_a_command_by_any_space(chat) -> None:  # type: ignore[no-untyped-def]
    assert "memory: anchor" in chat("/memory\tanchor")[2]


def test_what_begins_anew_says_so(chat) -> None:  # type: ignore[no-untyped-def]
    _, out, err = chat(TURN, "/reset", "/info")
    assert "begun anew: 1 turn of yours, 1 answer forgotten" in err
    assert any(line.startswith("holds") and "nothing yet" in line for line in out)


@pytest.mark.parametrize(
    ("turn", "memory", "words"),
    [
        (KNOWN, "auto", "update acts: the module knows such prompts"),
        (TURN, "auto", "anchor acts: the module does not know such prompts"),
        (KNOWN, "both", "update and anchor act"),
        (TURN, "update", "update acts; the module does not know such prompts"),
        (TURN, "anchor", "anchor acts"),
    ],
)
def test_info_says_what_acts_for_the_prompt(chat, turn: str, memory: str, words: str) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = chat("/info", turn, "/info", options=("--memory", memory))
    held = [line.split(None, 1)[1] for line in out if line.startswith("holds")]
    assert held[0] == "nothing yet" and held[1].endswith(f"tokens; {words}")


def test_the_output_of_a_pipe_is_in_the_order_of_what_was_typed(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("/memory none\n/help\n/memory anchor\n/help\n")
    with (tmp_path / "lines").open() as lines, (tmp_path / "both").open("w") as both:
        command = [sys.executable, "-m", "prosg", "chat", "demo"]
        assert subprocess.run(command, stdin=lines, stdout=both, stderr=both).returncode == 0
    text = (tmp_path / "both").read_text()
    assert text.startswith("demo: template none, memory auto\n")
    places = [text.index("memory: none"), text.index("/memory WORD"), text.index("memory: anchor")]
    assert places == sorted(places) and text.rindex("/memory WORD") > places[-1]


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_turn(chat) -> None:  # type: ignore[no-untyped-def]
    plain = chat(KNOWN, "/info")[1]
    assert chat("\ufeff" + KNOWN + "\r", "/info\r")[1] == plain
    assert chat("/memory \\\r", "none\r")[2].count("error") == chat("/memory \\", "none")[2].count("error")


def test_options_are_checked_before_the_first_line(chat, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, _, err = chat(options=("--max-tokens", "0"))
    assert status == 2 and err.startswith("error: --max-tokens is 0")
    file = tmp_path / "talk.json"
    chat(TURN, f"/save {file}")
    status, _, err = chat(options=("--load", str(file), "--system", "You are Ada.", "--template", "world"))
    assert status == 2 and "--system and --load" in err
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tau": "abc"}))
    status, _, err = chat(options=("--load", str(file)))
    assert status == 2 and "tau is 'abc'" in err
