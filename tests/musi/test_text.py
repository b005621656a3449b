"""Words and languages of texts."""

from __future__ import annotations

import pytest

from prosg.musi.text import language, words


def test_words_are_those_of_rouge_score_on_ascii_and_characters_in_chinese() -> None:
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
