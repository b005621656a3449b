"""Texts and gibberish: what a check of sentences lets pass."""

from __future__ import annotations

import string
from random import Random

import pytest

from prosg.checkpoints.load import demo_model
from prosg.data.checks import check_stages, run_check
from prosg.data.readable import reads_as_text
from prosg.data.synthetic import KINDS, make_rows
from prosg.tokenizers.files import load_tokenizer

SENTENCE = {"type": "sentences", "min": 1}
TEXTS = [
    "Tree.",
    "Hmm.",
    "No. No. No.",
    "hello there, how are you? i am fine. it is warm.",
    "I bought an iPhone 15 on the 21st, e.g. and/or a B52 at AT&T; it weighs 5kg.",
    "Die Straßenverkehrsordnung gilt. Der Herbst kommt schnell.",
    "Szczęście to źdźbło trawy. Chrząszcz brzmi w trzcinie.",
    "Я пошёл домой. Было темно.",
    "今天天气很好，我们去公园。回家以后，他们都睡着了。",
    "The sum is simple.\n```\nfor(i=0;i<n;i++)x[i]=y[i]*z[i];\n```\nIt adds all the products up.",
    "The film was praised by Mr. McDonald in 1999 ( U.S. box office : 3 @,@ 500 ) . It <unk> again .",
]
GIBBERISH = [
    "The the the the the the the.",
    "The fox fox the fox the fox the fox the fox the fox the fox the fox the fox the fox.",
    "' lone]sworduna b[ends m\x18 sailor\ufffd boy4qu. wit\ufffd hut fork@gloves",
    "xkqzv bnmtr wplk. Zzrtk qwxv plmn bvcxz.",
    "proud undnowbove flade theav calm Iris9 Mark is jumpedlow}sh? wol,onehe\x13 one wait",
    "",
    "```\nx = 1.\n```",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_read_as_text(text: str) -> None:
    assert reads_as_text(text) and run_check(SENTENCE, text)


@pytest.mark.parametrize("text", GIBBERISH)
def test_gibberish_does_not(text: str) -> None:
    assert not reads_as_text(text) and not run_check(SENTENCE, text)


@pytest.mark.parametrize("kind", KINDS)
def test_true_stories_of_every_kind_pass(kind: str) -> None:
    for split in ("train", "validation", "test"):
        for sentences in ((1, 5), (20, 60)):
            for row in make_rows((kind,), 12, 3, split, sentences=sentences):
                assert all(check_stages(row, row.answer)) and all(check_stages(row, row.answer, length_controlled=True))


def random_tokens(rng: Random) -> list[str]:
    tokenizer = load_tokenizer(demo_model().parent / "base")
    size = 1024
    return [tokenizer.decode([rng.randrange(1, size) for _ in range(rng.randint(20, 200))]) for _ in range(300)]


def random_letters(rng: Random) -> list[str]:
    def sentence() -> str:
        words = ("".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 9))) for _ in range(rng.randint(3, 12)))
        return f"{' '.join(words).capitalize()}."

    return [" ".join(sentence() for _ in range(rng.randint(1, 8))) for _ in range(300)]


def repeated_words(rng: Random) -> list[str]:
    words = ("the", "fox", "story", "Anna")
    return [f"{' '.join([rng.choice(words)] * rng.randint(5, 60)).capitalize()}." for _ in range(300)]


@pytest.mark.parametrize(
    ("texts", "most"),
    [(random_tokens, 0.01), (random_letters, 0.13), (repeated_words, 0.0)],
    ids=["tokens", "letters", "word"],
)
def test_random_text_passes_hardly_ever(texts, most: float) -> None:  # type: ignore[no-untyped-def]
    made = texts(Random(0))
    assert sum(run_check(SENTENCE, text) for text in made) <= most * len(made)


def test_long_texts_take_no_time() -> None:
    for text in ("a" * 200_000, "'a" * 100_000, "```" * 100_000, ",a" * 100_000, "a." * 100_000):
        reads_as_text(text)
