"""Sentences and capital words, against labels by hand and nltk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prosg.evaluation.ifeval.text import capital_words, split_sentences
from support.ifeval import nltk_has_punkt

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


def test_splitting_takes_linear_time() -> None:
    assert len(split_sentences("a" * 200_000 + ").")) == 1
    assert len(split_sentences('."' * 100_000)) == 1


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
