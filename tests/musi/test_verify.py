"""Verdicts of a judge, and what becomes of the answers."""

from __future__ import annotations

import json
from typing import Any

from prosg.data.row import Row
from prosg.llm.config import EndpointConfig
from prosg.musi.answers import answer_requests
from prosg.musi.config import BuildConfig, VerifyConfig
from prosg.musi.verify import parse_verdicts, verify_pair

ANSWER = "The sea is wide.\nIt is “blue”.\n\n- swim\n- sail\n\nGoodbye, and the sea."
STEPS = ["describe the sea", "list two things", "say goodbye"]


def reply(text: str, **more: Any) -> dict[str, Any]:
    return {"reply": text, "finish": "stop", "refusal": ""} | more


def judge_reply(*followed: str, quotes: tuple[str, ...] = ("The sea is", "- swim", "Goodbye")) -> str:
    pairs = zip(followed, quotes, strict=True)
    return json.dumps({"verdicts": [{"step": n, "followed": f, "quote": q} for n, (f, q) in enumerate(pairs, 1)]})


def test_verdicts_have_to_be_quoted() -> None:
    verdicts = parse_verdicts(reply(judge_reply("yes", "no", "Yes")), 3, ANSWER)
    assert not isinstance(verdicts, str) and [verdict.followed for verdict in verdicts] == [True, False, True]
    for number in range(1, 4):
        as_text = judge_reply("yes", "no", "Yes").replace(f'"step": {number}', f'"step": "{number}"')
        assert parse_verdicts(reply(as_text), 3, ANSWER) == verdicts
    for bad, why in (
        (reply(judge_reply("yes", "maybe", "no")), "schema"),
        (
            reply(judge_reply("yes", "yes", "yes", quotes=("The sea is", "swim well", "Goodbye"))),
            "step 2: what the judge",
        ),
        (reply("{}"), "not one verdict"),
        (reply("no JSON"), "not JSON"),
        (reply("{", finish="length"), "no verdict"),
    ):
        fault = parse_verdicts(bad, 3, ANSWER)
        assert isinstance(fault, str) and why in fault


def test_pairs_pass_or_go_with_reasons() -> None:
    config = BuildConfig(out="x", endpoint=EndpointConfig(model="m"), verify=VerifyConfig())
    decision = {"prompt": "p", "category": "n-stage", "kept": True, "sub_instructions": STEPS, "domain_knowledge": 0}
    checks = [{"stage": 3, "type": "contains", "items": ["Goodbye"]}, {"stage": 1, "type": "sentences", "max": 2}]
    (request,) = answer_requests(config, [decision | {"checks": checks}])

    def outcome(answer: dict[str, Any], judge: str) -> Any:
        return verify_pair(request, answer, [parse_verdicts(reply(judge), 3, answer["reply"])])

    row = outcome(reply(ANSWER), judge_reply("yes", "yes", "yes"))
    assert isinstance(row, Row) and len(row.stages) == 3 and row.distance_words == 11
    out_of_order = outcome(reply(ANSWER), judge_reply("yes", "yes", "yes", quotes=("The", "Goodbye", "- swim")))
    assert isinstance(out_of_order, Row) and out_of_order.stages == ()
    for answer, judge, why in (
        (reply(ANSWER), judge_reply("yes", "no", "no"), ("step 2 not followed", "step 3 not followed")),
        (reply(ANSWER.replace("Goodbye", "Bye")), "", ("check of step 3 (contains) cannot pass",)),
        (reply("The sea is. It is. It is.\n- swim\nGoodbye"), judge_reply("yes", "yes", "yes"), ("check of step 1",)),
        (reply("Sorry, I will not say goodbye"), "", ("a refusal",)),
        (reply(ANSWER, refusal="no"), "", ("a refusal",)),
        (reply(ANSWER, finish="length"), "", ("cut off at max_tokens",)),
        (reply(" "), "", ("empty",)),
        (reply("", finish="error", refusal="http 400"), "", ("no answer: http 400",)),
    ):
        rejected = outcome(answer, judge)
        assert not isinstance(rejected, Row) and rejected.reasons == why
    unjudged = verify_pair(request, reply(ANSWER), None)
    assert isinstance(unjudged, Row) and unjudged.stages == ()
