"""Instructions as models write them."""

from __future__ import annotations

import json

import pytest

from prosg.musi.draft import Draft, draft_from_dict, parse_drafts

GOOD = {"prompt": "Say a word, then say two.", "sub_instructions": ["say a word", "say two words"]}


def test_replies_are_read_as_models_write_them() -> None:
    text = json.dumps({"prompts": [GOOD]})
    for reply in (text, f"Here they are:\n{text}", json.dumps([GOOD])):
        (draft,) = parse_drafts(reply)
        assert isinstance(draft, Draft) and draft.prompt == GOOD["prompt"]
    check = {"stage": 2, "type": "contains", "items": ["two"], "text": None, "min": None, "max": None}
    more = [check, {"stage": 2, "type": "words", "max": 9}]
    draft = draft_from_dict(GOOD | {"checks": more})
    assert draft.checks[1]["type"] == "all_of"
    assert draft_from_dict(GOOD | {"checks": []}).to_dict()["sub_instructions"] == GOOD["sub_instructions"]


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("I'm sorry, but I can't.", "a refusal"),
        ('{"prompts": []}', "schema"),
        ('{"items": [1]}', "schema"),
        (json.dumps([3]), "schema: an instruction is an object"),
        (json.dumps([{"prompt": "x"}]), "sub_instructions is no list"),
        (json.dumps([GOOD | {"prompt": " "}]), "prompt is missing"),
        (json.dumps([GOOD | {"steps": 2}]), "unknown field steps"),
        (json.dumps([GOOD | {"sub_instructions": ["Say!", "say"]}]), "the same twice"),
        (json.dumps([GOOD | {"domain_knowledge": "high"}]), "no whole number"),
        (json.dumps([GOOD | {"checks": [{"stage": 0, "type": "words"}]}]), "allowed: 1 to 2"),
        (json.dumps([GOOD | {"checks": [{"stage": 1, "type": "magic"}]}]), "unknown check type"),
        (json.dumps([GOOD | {"checks": [{"stage": 1, "type": "words", "min": 5, "max": 2}]}]), "no answer passes"),
    ],
)
def test_faulty_replies_are_explained(reply: str, fault: str) -> None:
    (item,) = parse_drafts(reply)
    assert isinstance(item, str) and fault in item
