"""IFEval's rules against labels by hand and against the published checker; reading rows; the measures."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prosg.evaluation.ifeval import RULES, IFEvalRow, read_ifeval, score_ifeval
from prosg.evaluation.ifeval import language as language_module
from prosg.evaluation.ifeval.rules import validate_instruction
from prosg.evaluation.ifeval.scoring import Instruction, loose_variants
from prosg.evaluation.ifeval.text import capital_words, split_sentences

CASES = [json.loads(line) for line in Path(__file__).with_name("ifeval_cases.jsonl").read_text("utf-8").splitlines()]
"""Per rule and kwargs: answers that follow and answers that do not, labelled by hand."""
LANGUAGE_RULES = ("language:response_language", "change_case:english_capital", "change_case:english_lowercase")


def instruction(name: str, kwargs: dict[str, Any]) -> Instruction:
    return Instruction(name, validate_instruction(name, kwargs))


def named(case: dict[str, Any]) -> str:
    return f"{case['id']} {case['kwargs']}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_rules_agree_with_labels_by_hand(case: dict[str, Any]) -> None:
    if case["id"] in LANGUAGE_RULES:
        pytest.importorskip("langdetect")
    rule = instruction(case["id"], case["kwargs"])
    assert [text for text in case["yes"] if not rule.followed_by(text)] == []
    assert [text for text in case["no"] if rule.followed_by(text)] == []


def test_every_rule_has_labels_of_both_kinds() -> None:
    yes, no = Counter[str](), Counter[str]()
    for case in CASES:
        yes[case["id"]] += len(case["yes"])
        no[case["id"]] += len(case["no"])
    assert len(RULES) == 25
    assert all(yes[name] and no[name] and yes[name] + no[name] >= 5 for name in RULES)


SENTENCES = {
    "Mr. Hill met Mrs. Low at 5 p.m. on Elm St. in Leeds.": 1,
    "Dr. J. R. Moss lives in the U.S. with Prof. Lane.": 1,
    "He moved to the U.S. The rest stayed. They came at 5 a.m. However, we left.": 4,
    "Bring fruit, e.g. apples, i.e. something fresh, etc. and a knife.": 1,
    "We saw cats, dogs, etc. They slept.": 2,
    "Acme Inc. sold 3.14 million shares of Low Ltd. in Jan. 2020.": 1,
    "Pi is 3.14159. It goes on.": 2,
    "Open prosg.py or example.com now. Then stop.": 2,
    "Wait... what is it? Nothing... Fine.": 3,
    "“Where are you going?” “Home.” He left.": 3,
    '"Go on," she said. "It is late." He went (at last.) Then rain came.': 4,
    "Really?! Yes! Good.": 3,
    "He said no. No. 5 was best, as Fig. 2 shows. No. He did not.": 4,
    "One line\nand the next without a stop": 1,
    "First.\n\nSecond.\nThird": 3,
    "Temperatures fell to 5. That was cold.": 2,
    "": 0,
    " \n ": 0,
}


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_agree_with_labels_by_hand(text: str) -> None:
    assert len(split_sentences(text)) == SENTENCES[text]


def test_sentences_keep_every_character() -> None:
    for text in SENTENCES:
        assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


def test_sentences_count_numbers_of_lists_as_the_published_checker_does() -> None:
    assert split_sentences("1. Buy milk.\n2. Go home.") == ["1.", "Buy milk.", "2.", "Go home."]


def test_sentences_are_cut_in_linear_time() -> None:
    assert len(split_sentences("a" * 200_000 + ").")) == 1
    assert len(split_sentences('."' * 100_000)) == 1


def nltk_has_punkt() -> bool:
    nltk = pytest.importorskip("nltk")
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The published checker, as lm_eval ships it, kept from downloading.

    Without Punkt's model its rule on sentences cannot run, and its words are cut without cutting sentences first.
    """
    nltk = pytest.importorskip("nltk")
    for name in ("langdetect", "immutabledict", "lm_eval"):
        pytest.importorskip(name)
    import langdetect

    monkeypatch.setattr(langdetect.DetectorFactory, "seed", 0)
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    if not nltk_has_punkt():
        cut = nltk.word_tokenize
        monkeypatch.setattr(nltk, "word_tokenize", lambda text: cut(text, preserve_line=True))
    from lm_eval.tasks.ifeval import instructions_registry, utils

    assert set(instructions_registry.INSTRUCTION_DICT) == set(RULES)
    return utils


Compared = Callable[[str, str, dict[str, Any], str], None]


@pytest.fixture
def compared(published: Any) -> Compared:
    def compare(name: str, prompt: str, kwargs: dict[str, Any], response: str) -> None:
        row = IFEvalRow("1", prompt, (instruction(name, kwargs),))
        example = published.InputExample(1, [name], prompt, [kwargs])
        strict = published.test_instruction_following_strict(example, response).follow_instruction_list
        loose = published.test_instruction_following_loose(example, response).follow_instruction_list
        ours = score_ifeval([row], [response]).verdicts[0]
        assert (list(ours.strict), list(ours.loose)) == (strict, loose), (name, kwargs, response)

    return compare


def test_rules_agree_with_the_published_checker(compared: Compared) -> None:
    punkt = nltk_has_punkt()
    for case in CASES:
        if punkt or case["id"] != "length_constraints:number_sentences":
            for text in (*case["yes"], *case["no"]):
                compared(case["id"], "A prompt.", case["kwargs"], text)
                compared(case["id"], "A prompt.", case["kwargs"], f"Sure!\n**{text}**\nBye.")


def test_rules_agree_with_the_published_checker_on_its_own_rows(compared: Compared, shared_data: Path) -> None:
    """Every row's instructions on two other texts; not those on sentences, where the two differ, nor drawn letters."""
    rows = read_ifeval(shared_data / "ifeval" / "input_data.jsonl")
    with (shared_data / "self-instruct" / "seed_tasks.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["instances"][0]["output"] for line in file]
    seen = Counter[str]()
    for i, row in enumerate(rows):
        for name, kwargs in row.instructions:
            random_letter = not str(kwargs.get("letter", "a")).isalpha()
            if name == "length_constraints:number_sentences" or name in LANGUAGE_RULES or random_letter:
                continue
            for text in (texts[i % len(texts)], rows[(i + 7) % len(rows)].prompt.upper()):
                compared(name, row.prompt, dict(kwargs), text)
            seen[name] += 1
    assert len(rows) == 541
    assert len(seen) == 25 - 1 - len(LANGUAGE_RULES)


def test_sentences_agree_with_punkt_on_plain_english(shared_data: Path) -> None:
    if not nltk_has_punkt():
        pytest.skip("nltk has no Punkt model here; with one in NLTK_DATA the two are compared")
    from nltk import sent_tokenize

    with (shared_data / "self-instruct" / "seed_tasks.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["instances"][0]["output"] for line in file]
    same = [len(split_sentences(text)) == len(sent_tokenize(text)) for text in texts]
    assert sum(same) / len(same) >= 0.96


def test_capital_words_agree_with_nltk() -> None:
    tokenizer = pytest.importorskip("nltk").NLTKWordTokenizer()
    for text in (
        "NASA and the ESA: don't say \"NO\", say 'YES'; IT'S A U.S. rule, isn't it? I'D GO!",
        "CAN'T, won't, CANNOT... GONNA SHOUT--OK? WELL-KNOWN 3D B2B (A) [B] {C} <D> #E @F $G 50% H&M *I* J/K",
        "L’ÉTÉ «OUI» “YES” THEY'LL WE'VE JOHN'S John's 10:30 A,B 1,000 X—Y",
    ):
        assert capital_words(text) == sum(word.isupper() for word in tokenizer.tokenize(text)), text


def test_a_language_is_told_the_same_way_every_time() -> None:
    pytest.importorskip("langdetect")
    text = "Ja, no problem, si."
    assert len({language_module.detect_language(text) for _ in range(20)}) == 1
    assert language_module.detect_language("1 2 3") is None


def test_without_langdetect_only_rules_on_languages_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langdetect", None)
    language_module._detectors.cache_clear()
    assert instruction("punctuation:no_comma", {}).followed_by("Yes.")
    with pytest.raises(ValueError, match=r"langdetect; pip install 'prosg\[eval\]'"):
        instruction("language:response_language", {"language": "de"}).followed_by("Ja.")


# -- measures


def test_loose_variants_are_the_published_eight() -> None:
    assert loose_variants("a*\nb\nc") == ["a*\nb\nc", "b\nc", "a*\nb", "b", "a\nb\nc", "b\nc", "a\nb", "b"]
    assert loose_variants("a") == ["a", "", "", "", "a", "", "", ""]


def two_rows() -> list[IFEvalRow]:
    comma = instruction("punctuation:no_comma", {})
    words = instruction("length_constraints:number_words", {"num_words": 2, "relation": "at least"})
    return [IFEvalRow("a", "One", (comma, words)), IFEvalRow("b", "Two", (comma,))]


def test_scores_are_the_published_measures() -> None:
    result = score_ifeval(two_rows(), ["Sure, gladly:\nA dog", "Yes, no"])
    assert result.verdicts[0] == ((False, True), (True, True))
    assert result.verdicts[1] == ((False,), (False,))
    measured = {(row["level"], row["kind"]): (row["n"], row["strict"], row["loose"]) for row in result.to_rows()}
    assert measured == {
        ("prompt", "all"): (2, 0, 1 / 2),
        ("instruction", "all"): (3, 1 / 3, 2 / 3),
        ("instruction", "punctuation:no_comma"): (2, 0, 1 / 2),
        ("instruction", "length_constraints:number_words"): (1, 1, 1),
    }
    for row in result.to_rows():
        assert row["strict_interval"][0] <= row["strict"] <= row["strict_interval"][1]
    names = ["punctuation:no_comma", "length_constraints:number_words"]
    assert result.verdict_rows()[0] == {
        "key": "a",
        "instruction_id_list": names,
        "strict": [False, True],
        "loose": [True, True],
    }
    assert json.loads(json.dumps(result.to_rows())) == result.to_rows()


@pytest.mark.parametrize("answer", ["", " \n"])
def test_an_empty_answer_follows_nothing(answer: str) -> None:
    assert score_ifeval(two_rows()[1:], [answer]).verdicts == (((False,), (False,)),)


def test_scoring_needs_an_answer_for_each_row() -> None:
    with pytest.raises(ValueError, match="1 answers for 2 rows"):
        score_ifeval(two_rows(), ["a"])
    with pytest.raises(ValueError, match="at least one row"):
        score_ifeval([], [])


# -- reading

ROW: dict[str, Any] = {
    "key": 1,
    "prompt": "Name trees.",
    "instruction_id_list": ["keywords:existence", "punctuation:no_comma"],
    "kwargs": [{"keywords": ["oak"], "relation": None}, {}],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_rows_are_read(tmp_path: Path) -> None:
    rows = read_ifeval(write(tmp_path / "rows.jsonl", ROW, ROW | {"key": "x", "more": 1}))
    assert [row.key for row in rows] == ["1", "x"]
    assert rows[0].instructions == (("keywords:existence", {"keywords": ["oak"]}), ("punctuation:no_comma", {}))


def one(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"instruction_id_list": [name], "kwargs": [kwargs]}


BAD: dict[str, tuple[Any, str]] = {
    "no object": ([1], "a row is a JSON object, not list"),
    "no kwargs": ({"key": 1, "prompt": "a", "instruction_id_list": []}, "'kwargs' is missing"),
    "key": (ROW | {"key": True}, "'key' must be a whole number or a text, not bool"),
    "prompt": (ROW | {"prompt": " "}, "'prompt' is empty"),
    "ids": (ROW | {"instruction_id_list": "keywords:existence"}, "'instruction_id_list' must be a list, not str"),
    "none": (ROW | {"instruction_id_list": [], "kwargs": []}, "at least one instruction"),
    "lengths": (ROW | {"kwargs": [{}]}, "2 instructions, but 1 kwargs"),
    "unknown id": (ROW | one("keywords:rhyme"), "unknown instruction 'keywords:rhyme'; allowed: keywords:existence, "),
    "id of another type": (ROW | {"instruction_id_list": [["a"], "b"]}, "unknown instruction ['a']; allowed"),
    "kwargs of another type": (ROW | {"kwargs": [{"keywords": ["a"]}, []]}, "kwargs must be an object, not list"),
    "unknown": (ROW | one("punctuation:no_comma", strict=None), "has no argument 'strict'; allowed: none"),
    "another's": (ROW | one("punctuation:no_comma", keyword="a"), "has no argument 'keyword'"),
    "missing": (ROW | one("keywords:frequency", keyword="a", relation="at least"), "needs the argument 'frequency'"),
    "relation": (
        ROW | one("length_constraints:number_words", num_words=3, relation="more than"),
        "'relation' is 'more than', must be 'less than' or 'at least'",
    ),
    "count": (ROW | one("length_constraints:number_paragraphs", num_paragraphs=2.0), "is 2.0, must be a whole number"),
    "place": (
        ROW | one("length_constraints:nth_paragraph_first_word", num_paragraphs=2, nth_paragraph=0, first_word="a"),
        "'nth_paragraph' is 0, must be a whole number, 1 or more",
    ),
    "words": (ROW | one("keywords:forbidden_words", forbidden_words=["a", ""]), "must be a list of texts"),
    "letter": (
        ROW | one("keywords:letter_frequency", letter="ab", let_frequency=1, let_relation="at least"),
        "'letter' is 'ab', must be one character",
    ),
    "language": (ROW | one("language:response_language", language="xx"), "'language' is 'xx', must be one of ar bg"),
    "key again": (ROW, "key 1 is taken by line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named_by_file_and_line(name: str, tmp_path: Path) -> None:
    row, message = BAD[name]
    first = ROW | {"key": 1 if name == "key again" else 0}
    path = write(tmp_path / "rows.jsonl", first, row)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}:2: ')}.*{re.escape(message)}"):
        read_ifeval(path)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no rows"):
        read_ifeval(write(tmp_path / "rows.jsonl"))
