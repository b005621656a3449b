"""Near-duplicates by ROUGE-L, against an exhaustive search and the package rouge-score."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from prosg.data.synthetic import words as contents
from prosg.musi.similar import clusters, first_similar, rouge_l, similar_pairs
from prosg.musi.text import words


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
    texts = some_texts(55)
    tokenized = [words(text) for text in texts]
    every = [(later, earlier) for later in range(len(texts)) for earlier in range(later)]
    common = {pair: plain_lcs(tokenized[pair[0]], tokenized[pair[1]]) for pair in every}
    for above in (0.3, 0.7, 0.9):
        wanted = {
            (later, earlier)
            for later, earlier in every
            if 20 * common[later, earlier] > round(10 * above) * (len(tokenized[later]) + len(tokenized[earlier]))
        }
        pairs = list(similar_pairs(texts, above))
        assert {(pair.later, pair.earlier) for pair in pairs} == wanted
        assert len(pairs) == len(wanted) > 0


def test_scores_are_rouge_scores() -> None:
    rouge = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    texts = some_texts(35, seed=1)
    for one, other in itertools.pairwise(texts):
        assert rouge_l(one, other) == pytest.approx(rouge.score(one, other)["rougeL"].fmeasure)
    ours = {(pair.later, pair.earlier) for pair in similar_pairs(texts, 0.7)}
    theirs = {
        (later, earlier)
        for later in range(len(texts))
        for earlier in range(later)
        if rouge.score(texts[later], texts[earlier])["rougeL"].fmeasure > 0.7 + 1e-9
    }
    assert ours == theirs


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
    roots = clusters(texts, 0.7)
    assert all(roots[pair.later] == roots[pair.earlier] for pair in similar_pairs(texts, 0.7))
    linked = {number for pair in similar_pairs(texts, 0.7) for number in pair[:2]}
    assert linked and all(roots[number] == number for number in range(300) if number not in linked)


def test_texts_without_words_are_like_nothing() -> None:
    assert list(first_similar(["...", "...", "a b"], 0.7, ["!"])) == [None, None, None]
    assert rouge_l("", "...") == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        list(first_similar(["a"], 1.0))
