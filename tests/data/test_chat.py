"""Conversations: what is read from chat and text rows, what is refused, and what a template makes of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prosg.data.chat import _cue_spans
from prosg.data.checks import split_items
from prosg.data.encode import encode_rows, frame_row
from prosg.data.row import Row, read_rows, row_from_dict, row_to_dict
from prosg.data.templates import TEMPLATES, Turn, known_template
from prosg.tokenizers.files import load_tokenizer
from support.generated import draws
from support.tokenizers import CharacterTokenizer

USER, ASSISTANT = {"role": "user", "content": "Hi there."}, {"role": "assistant", "content": "Hello."}
SYSTEM, MORE = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "And you?"}
LAST = {"role": "assistant", "content": "I am well."}


def chat(*messages: Any, **more: Any) -> Row:
    return row_from_dict({"messages": list(messages), **more})


def framed(row: Row, template: str) -> tuple[str, str]:
    made = frame_row(row, template, CharacterTokenizer())
    assert (made.turns, made.framing, made.id) == ((), "", row.id)
    return made.prompt, made.answer


def test_the_last_assistant_turn_is_the_answer() -> None:
    row = chat(SYSTEM, USER, ASSISTANT, MORE, LAST, source="here", kind="talk")
    assert row.answer == "I am well."
    assert row.prompt == "Be kind.\n\nHi there.\n\nHello.\n\nAnd you?"
    assert [turn.role for turn in row.turns] == ["system", "user", "assistant", "user"]
    assert (row.kind, row.extra) == ("talk", {"source": "here"})
    assert row_from_dict(row_to_dict(row)) == row


FRAMED = {
    "world": "User: Hi there.\n\nAssistant: Hello.\n\nUser: And you?\n\nAssistant:",
    "pile": "Question: Hi there.\n\nAnswer: Hello.\n\nQuestion: And you?\n\nAnswer:",
    "raven": "Instruction: Hi there.\n\nResponse: Hello.\n\nInstruction: And you?\n\nResponse:",
}


@pytest.mark.parametrize("template", FRAMED)
def test_templates(template: str) -> None:
    row = chat(USER, ASSISTANT, MORE, LAST)
    assert framed(row, template) == (FRAMED[template], " I am well.")
    # A row of one text names its template by its cues.
    text = row_from_dict({"text": FRAMED[template] + " I am well."})
    assert (text.framing, text.turns, text.answer) == (template, row.turns, row.answer)
    assert framed(text, "") == framed(row, template)
    assert framed(text, "world") == framed(row, "world")
    # A prompt from the command line is framed like a training row's prompt.
    question = row_from_dict({"prompt": "Hi there.", "answer": "Hello."})
    assert framed(question, template) == (TEMPLATES[template].frame([Turn("user", "Hi there.")]).text, " Hello.")
    assert not TEMPLATES[template].frame([Turn("user", "Hi there.")]).text.endswith(" ")
    assert TEMPLATES[template].stop == "\n\n" + FRAMED[template].split()[0]


def test_system_turns() -> None:
    row = chat(SYSTEM, USER, LAST)
    assert framed(row, "world")[0] == "System: Be kind.\n\nUser: Hi there.\n\nAssistant:"
    assert framed(row, "raven")[0] == "Instruction: Be kind.\n\nInput: Hi there.\n\nResponse:"
    for template in ("world", "raven"):
        again = row_from_dict({"text": "".join(framed(row, template))})
        assert (again.framing, again.turns) == (template, row.turns)
    with pytest.raises(ValueError, match="'pile' has no system turn.*: world, raven"):
        framed(row, "pile")


def test_blank_lines_end_turns_so_those_within_are_closed_up() -> None:
    row = chat(
        {"role": "user", "content": " One.\r\n\r\nTwo.\n \n\nThree.\n"}, {"role": "assistant", "content": "A\n\nB\n"}
    )
    assert framed(row, "world") == ("User: One.\nTwo.\nThree.\n\nAssistant:", " A\nB")


def test_a_pair_is_left_alone_unless_a_template_is_named() -> None:
    row = row_from_dict({"prompt": "a\n\nb ", "answer": "c\n\nd", "messages": "a note", "text": 3})
    assert frame_row(row, "", CharacterTokenizer()) is row
    assert frame_row(row, "none", CharacterTokenizer()) is row


def test_stages_move_with_the_text() -> None:
    check = {"type": "sentences", "min": 1}
    answer = "One.\n\nTwo.\n\n\nCode: 12\nEnd: x"
    stages = [
        {"instruction": "", "check": check, "start": start, "marker": marker}
        for start, marker in ((0, ""), (answer.index("\n\n\nCode"), "\n\n\nCode:"), (answer.index("End"), "End:"))
    ]
    row = row_from_dict({"prompt": "p", "answer": answer, "stages": stages})
    made = frame_row(row, "world", CharacterTokenizer())
    assert made.answer == " One.\nTwo.\nCode: 12\nEnd: x"
    assert [made.answer[stage.start :] for stage in made.stages[1:]] == ["\nCode: 12\nEnd: x", "End: x"]
    assert [stage.marker for stage in made.stages] == ["", "\nCode:", "End:"]
    assert row_from_dict(row_to_dict(made)) == made


def test_chat_rows_need_a_template_unless_the_tokenizer_has_one() -> None:
    row = chat(USER, LAST)
    for template in ("", "none"):
        with pytest.raises(ValueError, match="template; allowed: --template world, pile, raven"):
            frame_row(row, template, CharacterTokenizer())
    with pytest.raises(ValueError, match="template .* allowed: world, pile, raven"):
        TEMPLATES["none"].frame(row.turns * 2)
    world = load_tokenizer("world")
    encoded = encode_rows([row], world)[0][0]
    assert world.decode(encoded.prompt) == "User: Hi there.\n\nAssistant:"
    assert world.decode(encoded.answer[:-1]) == " I am well."
    assert encoded.prompt[:2] == [24281, 59] and encoded.prompt[-3:] == [5585, 41693, 59]
    with pytest.raises(ValueError, match="'vicuna', allowed: none, world, pile, raven"):
        known_template("vicuna")


BAD = {
    "no assistant": ({"messages": [USER]}, "message .* assistant"),
    "nothing": ({"messages": []}, "message .* assistant"),
    "unanswered": ({"messages": [USER, ASSISTANT, MORE]}, "last message .* user.* assistant"),
    "two users": ({"messages": [USER, MORE, LAST]}, "message 2 .* user.* assistant.* allowed"),
    "two answers": ({"messages": [USER, ASSISTANT, LAST]}, "message 3 .* assistant.* user.* allowed"),
    "begins with an answer": ({"messages": [ASSISTANT]}, "message 1 .* assistant.* user.* allowed"),
    "late system": ({"messages": [USER, SYSTEM, LAST]}, "message 2 .* system.* allowed: one system turn first"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 .* 'tool'; allowed: system, user, assistant"),
    "no role": ({"messages": [{"from": "human", "value": "x"}]}, "message 1 .* role None; allowed: system"),
    "parts": ({"messages": [USER, {"role": "assistant", "content": [1]}]}, "message 2 .* 'content' .* list"),
    "empty": ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "message 2 .* empty"),
    "no list": ({"messages": {"role": "user"}}, "'messages' .* list, not dict"),
    "no object": ({"messages": ["Hi"]}, "message 1 .* object"),
    "no cue": ({"text": "Once upon a time."}, "'text' .* allowed: User:, System:"),
    "no answer": ({"text": "User: Hi.\nAssistant: on the next line"}, "'text' .* 'Assistant:' after a blank line"),
    "empty turn": ({"text": "User: Hi.\n\nAssistant:"}, "turn 2 .* empty"),
    "two turns": ({"text": "User: a\n\nUser: b\n\nAssistant: c"}, "turn 2 .* user.* assistant"),
    "no text": ({"text": None}, "'text' .* str"),
    "none of them": ({"instruction": "x"}, "'prompt' and 'answer', or 'messages', or 'text'"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_bad_rows_name_file_line_and_fault(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [USER, LAST]}) + "\n" + json.dumps(data) + "\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: .*{message}"):
        read_rows(file)


def test_a_file_may_hold_all_kinds(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = ({"prompt": "p", "answer": "a"}, {"messages": [USER, LAST]}, {"text": "Question: q\n\nAnswer: a"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept, _ = encode_rows(read_rows(file), load_tokenizer("world"))
    decode = load_tokenizer("world").decode
    assert [decode(row.prompt) for row in kept] == ["p", "User: Hi there.\n\nAssistant:", "Question: q\n\nAnswer:"]


def test_cues_are_found_as_a_pattern_would_find_them() -> None:
    for draw in draws(31):
        parts = ["U:", "\n", "\n", " ", "\t", "x", "\r\n", "\x0b"]
        text = "".join(draw.choice(parts) for _ in range(draw.randrange(30)))
        assert _cue_spans("U:", text) == [m.span() for m in re.finditer(r"(?:\A|\n[ \t]*\n\s*)U:", text)]


@pytest.mark.parametrize("gap", ["\n" * 200_000, " \n" * 200_000, "\n" + " " * 200_000, "\r\n" * 200_000])
def test_long_runs_of_line_breaks_are_read_in_one_pass(gap: str) -> None:
    row = row_from_dict({"text": f"User: a{gap}b\n\nAssistant: c{gap}d"})
    framed = frame_row(row, "world", CharacterTokenizer())
    assert "\n\n" not in framed.answer
    assert split_items(f"a{gap}b, c{gap}and d") == [f"a{gap}b", "c", "d"]


def test_many_turns_are_encoded_in_one_pass() -> None:
    turns = [{"role": role, "content": "a\nb"} for _ in range(3) for role in ("user", "assistant")]
    (encoded,), _ = encode_rows([row_from_dict({"messages": turns})], CharacterTokenizer(), template="world")
    assert CharacterTokenizer().decode(encoded.answer[:-1]) == " a\nb"
