"""The parts of a build by themselves: words, near-duplicates, drafts, the filter, places of stages, verdicts, files."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prosg.data.row import Row, Stage
from prosg.data.synthetic import words as contents
from prosg.llm.config import EndpointConfig
from prosg.musi.answers import requests as answer_requests
from prosg.musi.categories import chosen_categories, package_categories, topics
from prosg.musi.config import BuildConfig, FilterConfig, PromptsConfig, VerifyConfig
from prosg.musi.draft import Draft, draft_from_dict, parse_drafts
from prosg.musi.filter import decide, evaluation_texts
from prosg.musi.prompts import Drafted
from prosg.musi.similar import clusters, first_similar, rouge_l, similar_pairs
from prosg.musi.stages import find_quote, leaks, place_stages, possible
from prosg.musi.text import language, refuses, words
from prosg.musi.verify import conclude, verdicts
from prosg.utils.options import help_text
from prosg.utils.store import Log

# -- words


def test_words_are_rouge_scores_on_ascii_and_characters_in_chinese() -> None:
    assert words("Don't_do 3.5 e-mails!") == ["don", "t", "do", "3", "5", "e", "mails"]
    assert words("请写two句话。") == ["请", "写", "two", "句", "话"]
    assert words("Größe") == ["größe"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Write a story and then a poem about the sea.", "en"),
        ("Name it", "en"),
        ("请用五句话描述大海，然后写一首诗。", "zh"),
        ("用Python写一个函数", "zh"),
        ("Schreibe eine Geschichte und danach noch ein Gedicht dazu.", "other"),
        ("海についての詩を書いてください", "other"),
        ("Напиши рассказ", "other"),
        ("123 ...", "other"),
    ],
)
def test_languages(text: str, wanted: str) -> None:
    assert language(text) == wanted


def test_refusals() -> None:
    for text in ("I'm sorry, but I can't.", "I cannot do that.", "As an AI, I", "很抱歉，我不能", "Sorry, I will not"):
        assert refuses(text)
    for text in ("I can see the sea.", "Sorrow is a song.", "The apology: I'm sorry.", "As an example, take"):
        assert not refuses(text)


# -- near-duplicates


def some_texts(size: int, seed: int = 0) -> list[str]:
    """Sentences of few words, and changed copies: pairs on both sides of every threshold."""
    rng = Random(seed)
    vocabulary = [*contents.OBJECTS, *contents.PLACES, "the", "the", "a", "and"]
    texts: list[str] = []
    while len(texts) < size:
        if texts and rng.random() < 0.6:
            text = rng.choice(texts).split()
            for _ in range(rng.randint(1, max(1, len(text) // 2))):
                text[rng.randrange(len(text))] = rng.choice(vocabulary)
            if rng.random() < 0.3:
                rng.shuffle(text)
        else:
            text = [rng.choice(vocabulary) for _ in range(rng.randint(1, 40))]
        texts.append(" ".join(text))
    return texts


def plain_lcs(one: list[str], other: list[str]) -> int:
    row = [0] * (len(other) + 1)
    for a in one:
        diagonal = 0
        for place, b in enumerate(other, 1):
            diagonal, row[place] = row[place], diagonal + 1 if a == b else max(row[place], row[place - 1])
    return row[-1]


def test_pairs_are_those_of_an_exhaustive_search() -> None:
    texts = some_texts(90)
    cut = [words(text) for text in texts]
    every = [(later, earlier) for later in range(len(texts)) for earlier in range(later)]
    common = {pair: plain_lcs(cut[pair[0]], cut[pair[1]]) for pair in every}
    for above in (0.3, 0.7, 0.9):
        wanted = {
            (later, earlier)
            for later, earlier in every
            if 20 * common[later, earlier] > round(10 * above) * (len(cut[later]) + len(cut[earlier]))
        }
        found = list(similar_pairs(texts, above))
        assert {(pair.later, pair.earlier) for pair in found} == wanted
        assert len(found) == len(wanted) > 0


def test_scores_are_rouge_scores() -> None:
    rouge = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    texts = some_texts(60, seed=1)
    for one, other in itertools.pairwise(texts):
        assert rouge_l(one, other) == pytest.approx(rouge.score(one, other)["rougeL"].fmeasure)
    found = {(pair.later, pair.earlier) for pair in similar_pairs(texts, 0.7)}
    theirs = {
        (later, earlier)
        for later in range(len(texts))
        for earlier in range(later)
        if rouge.score(texts[later], texts[earlier])["rougeL"].fmeasure > 0.7 + 1e-9
    }
    assert found == theirs


def test_what_is_kept_has_no_near_duplicates_and_what_is_dropped_has_one_among_it() -> None:
    texts = some_texts(1200, seed=2)  # more than a block
    matches = list(first_similar(texts, 0.7))
    kept = [text for text, match in zip(texts, matches, strict=True) if match is None]
    assert not list(similar_pairs(kept, 0.7))
    for text, match in zip(texts, matches, strict=True):
        if match is not None:
            assert texts[match.place] in kept and rouge_l(text, texts[match.place]) == match.score > 0.7
    again = list(first_similar(texts[600:], 0.7, [t for t, m in zip(texts[:600], matches, strict=False) if m is None]))
    assert [match is None for match in again] == [match is None for match in matches[600:]]


def test_clusters_are_what_pairs_link() -> None:
    texts = some_texts(300, seed=3)
    roots = clusters(texts, 0.7, joined=[(0, 299)])
    assert roots[299] == roots[0] == 0
    assert all(roots[pair.later] == roots[pair.earlier] for pair in similar_pairs(texts, 0.7))
    alone = {number for pair in similar_pairs(texts, 0.7) for number in pair[:2]} | {0, 299}
    assert all(roots[number] == number for number in range(300) if number not in alone)


def test_texts_without_words_are_like_nothing() -> None:
    assert list(first_similar(["...", "...", "a b"], 0.7, ["!"])) == [None, None, None]
    assert rouge_l("", "...") == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        list(first_similar(["a"], 1.0))


# -- drafts and categories


def test_every_category_has_what_it_says() -> None:
    found = package_categories()
    assert {"two-stage", "n-stage", "list-then-use", "constraint-at-the-end", "recite"} <= found.keys()
    assert {name.removesuffix("-zh") for name in found} == {name for name in found if not name.endswith("-zh")}
    for category in found.values():
        assert len(category.examples) >= 2 and len(topics(category.language)) >= 40
        for example in category.examples:
            assert category.stages[0] <= len(example.sub_instructions) <= category.stages[1]
            assert language(example.prompt) == category.language


GOOD = {"prompt": "Say a word, then say two.", "sub_instructions": ["say a word", "say two words"]}


def test_replies_are_read_as_models_write_them() -> None:
    text = json.dumps({"prompts": [GOOD]})
    for reply in (text, f"```json\n{text}\n```", f"Here they are:\n{text}\nEnjoy!", json.dumps([GOOD])):
        (found,) = parse_drafts(reply)
        assert isinstance(found, Draft) and found.prompt == GOOD["prompt"]
    check = {"stage": 2, "type": "contains", "items": ["two"], "text": None, "min": None, "max": None}
    more = [check, {"stage": 2, "type": "words", "max": 9}]
    found = draft_from_dict(GOOD | {"checks": more})
    assert found.checks[1]["type"] == "all_of"
    assert draft_from_dict(GOOD | {"checks": []}).to_dict()["sub_instructions"] == GOOD["sub_instructions"]


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("I'm sorry, but I can't.", "a refusal"),
        ("Nothing.", "not JSON"),
        ('{"prompts": [', "not JSON"),
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
    ],
)
def test_replies_that_are_not_as_asked(reply: str, fault: str) -> None:
    (found,) = parse_drafts(reply)
    assert isinstance(found, str) and fault in found


# -- filter


def decided(prompts: list[str | Draft], log: Path, **options: Any) -> list[str]:
    """The reasons of the filter for English instructions of two stages."""
    config = BuildConfig(out="x", filter=FilterConfig(**options))
    drafts = [p if isinstance(p, Draft) else Draft(p, ("one", "two"), {}) for p in prompts]
    found = [Drafted("s", place, "two-stage", draft, "") for place, draft in enumerate(drafts)]
    return [record["reason"] for record in decide(config, chosen_categories(PromptsConfig()), found, Log(log))]


def test_the_filter_says_why(tmp_path: Path) -> None:
    fine = "Describe the sea in five sentences, and then list three things that one can do on a beach."
    (tmp_path / "eval.jsonl").write_text(
        json.dumps({"turns": ["Tell me about an old clock on the wall of a quiet house in the north."]}) + "\n"
    )
    reasons = decided(
        [
            fine,
            Draft(fine, ("one",), {}),
            "Write it.",
            "请用五句话描述大海，然后列出三件可以在海边做的事情。",
            Draft(f"{fine} Bye.", ("one", "two"), {}, 3),
            "Explain how the compiler turns a polynomial into a matrix, and then say why that is of any use.",
            fine.replace("five", "seven"),
            "Tell me about an old clock on the wall of a quiet house in the south, please.",
            "First write down ten birds. Then say: an old clock on the wall of a quiet house is of no use to any owl.",
        ],
        tmp_path / "filter.jsonl",
        decontaminate=[str(tmp_path / "eval.jsonl")],
        ngram=9,
    )
    assert [reason.partition(":")[0] for reason in reasons] == [
        "", "stages", "length", "language", "domain knowledge", "domain knowledge", "near-duplicate", "evaluation",
        "evaluation",
    ]  # fmt: skip
    assert "compiler, matrix, polynomial" in reasons[5]


def test_decisions_stay_and_other_options_decide_anew(tmp_path: Path) -> None:
    texts = [f"Say something about {one} and the weather, then list what {one} is for." for one in contents.OBJECTS[:9]]
    log = tmp_path / "filter.jsonl"
    first = decided(texts[:5], log)
    size = log.stat().st_size
    assert decided(texts[:5], log) == first
    assert log.stat().st_size == size
    assert decided(texts, log)[:5] == first
    assert decided(texts, log, similar_above=0.95) == [""] * 9
    assert sum(not reason for reason in decided(texts, log)) == 1


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.txt", "one\n\ntwo\n", ["one", "two"]),
        ("a.json", json.dumps([{"instruction": "one", "answer": "no"}, {"x": {"prompt": "two"}}]), ["one", "two"]),
        ("a.jsonl", json.dumps({"turns": ["one", "two"]}) + "\n", ["one", "two"]),
    ],
)
def test_evaluation_files(tmp_path: Path, name: str, content: str, wanted: list[str]) -> None:
    (tmp_path / name).write_text(content)
    assert evaluation_texts(str(tmp_path / name)) == wanted
    (tmp_path / name).write_text('{"nothing": 1}\n' if name != "a.txt" else "\n")
    with pytest.raises(ValueError, match=name):
        evaluation_texts(str(tmp_path / name))


def test_the_shared_evaluation_sets_are_read(shared_data: Path) -> None:
    assert len(evaluation_texts(str(shared_data / "mt-bench" / "question.jsonl"))) == 160
    assert len(evaluation_texts(str(shared_data / "ifeval" / "input_data.jsonl"))) > 530
    assert len(evaluation_texts(str(shared_data / "followbench" / "content_constraints.json"))) > 100


# -- stages and verdicts

ANSWER = "The sea is wide.\nIt is “blue”.\n\n- swim\n- sail\n\nGoodbye, and the sea."
STEPS = ["describe the sea", "list two things", "say goodbye"]
ANY = {"type": "words", "min": 1}


def test_quotes_are_found_however_they_are_copied() -> None:
    assert find_quote('it is "BLUE"', ANSWER) == ANSWER.index("It is")
    assert find_quote("'- swim - sail'", ANSWER) == ANSWER.index("- swim")
    assert find_quote("The sea ...", ANSWER) == 0
    assert find_quote("the sea", ANSWER, 5) == ANSWER.index("the sea.")
    assert find_quote("blue sea", ANSWER) == find_quote("", ANSWER) == -1
    assert find_quote("İx", "aİx") == 1


def test_stages_begin_where_their_quotes_do() -> None:
    stages = place_stages(ANSWER, STEPS, [ANY] * 3, ["The sea is", "- swim", "Goodbye"])
    assert [(stage.start, stage.marker) for stage in stages] == [
        (0, ""),
        (ANSWER.index("\n- swim"), "\n-"),
        (ANSWER.index("\nGoodbye"), "\nGoodbye"),
    ]
    assert place_stages(ANSWER, STEPS, [ANY] * 3, ["The sea is", "Goodbye", "- swim"]) == ()
    assert place_stages("yes no", ["a", "b"], [ANY] * 2, ["yes", "no"])[1].marker == "no"
    chinese = "大海很宽。再见，大海。"
    assert place_stages(chinese, ["a", "b"], [ANY] * 2, ["大海很宽", "再见"])[1].marker == "再"


def test_what_leaks() -> None:
    def last(text: str, start: int) -> Stage:
        return Stage("x", {"type": "contains", "items": [text]}, start, "\n")

    assert not leaks("Keep 417 in mind.", "A story.\n417", last("417", 8))
    assert leaks("Keep 417 in mind.", "A story of 417.\n417", last("417", 15))
    assert leaks("Choose a code.", "A story.\n417", last("417", 8))
    assert leaks("Any.", "A story.\nBye", Stage("x", ANY, 8, "\n"))
    assert possible({"type": "all_of", "checks": [ANY, {"type": "ends_with", "text": "b"}]}, "a b c")


def reply(text: str, **more: Any) -> dict[str, Any]:
    return {"reply": text, "finish": "stop", "refusal": ""} | more


def judged(*followed: str, quotes: tuple[str, ...] = ("The sea is", "- swim", "Goodbye")) -> str:
    told = zip(followed, quotes, strict=True)
    return json.dumps({"verdicts": [{"step": n, "followed": f, "quote": q} for n, (f, q) in enumerate(told, 1)]})


def test_verdicts_have_to_be_quoted() -> None:
    found = verdicts(reply(judged("yes", "no", "Yes")), 3, ANSWER)
    assert not isinstance(found, str) and [one.followed for one in found] == [True, False, True]
    for bad, why in (
        (reply(judged("yes", "maybe", "no")), "schema"),
        (reply(judged("yes", "yes", "yes", quotes=("The sea is", "swim well", "Goodbye"))), "step 2: what the judge"),
        (reply("{}"), "not one verdict"),
        (reply("no JSON"), "not JSON"),
        (reply("{", finish="length"), "no verdict"),
    ):
        said = verdicts(bad, 3, ANSWER)
        assert isinstance(said, str) and why in said


def test_pairs_pass_or_go_with_reasons() -> None:
    config = BuildConfig(out="x", endpoint=EndpointConfig(model="m"), verify=VerifyConfig())
    decision = {"prompt": "p", "category": "n-stage", "kept": True, "sub_instructions": STEPS, "domain_knowledge": 0}
    checks = [{"stage": 3, "type": "contains", "items": ["Goodbye"]}, {"stage": 1, "type": "sentences", "max": 2}]
    (asked,) = answer_requests(config, [decision | {"checks": checks}])

    def outcome(answer: dict[str, Any], judge: str) -> Any:
        return conclude(asked, answer, [verdicts(reply(judge), 3, ANSWER)])

    row = outcome(reply(ANSWER), judged("yes", "yes", "yes"))
    assert isinstance(row, Row) and len(row.stages) == 3 and row.distance_words == 11
    out_of_order = outcome(reply(ANSWER), judged("yes", "yes", "yes", quotes=("The", "Goodbye", "- swim")))
    assert isinstance(out_of_order, Row) and out_of_order.stages == ()
    for answer, judge, why in (
        (reply(ANSWER), judged("yes", "no", "no"), ("step 2 not followed", "step 3 not followed")),
        (reply(ANSWER.replace("Goodbye", "Bye")), "", ("check of step 3 (contains) cannot pass",)),
        (reply("The sea is. It is. It is.\n- swim\nGoodbye"), judged("yes", "yes", "yes"), ("check of step 1",)),
        (reply("Sorry, I will not say goodbye"), "", ("a refusal",)),
        (reply(ANSWER, refusal="no"), "", ("a refusal",)),
        (reply(ANSWER, finish="length"), "", ("cut off at max_tokens",)),
        (reply(" "), "", ("empty",)),
        (reply("", finish="error", refusal="http 400"), "", ("no answer: http 400",)),
    ):
        gone = conclude(asked, answer, [verdicts(reply(judge), 3, answer["reply"])])
        assert not isinstance(gone, Row) and gone.reasons == why


def test_every_option_is_told() -> None:
    text = help_text(BuildConfig)
    assert "  endpoint.base_url: Where it is" in text and "budget: Hard caps" in text
    assert text.count("(default:") > 45
