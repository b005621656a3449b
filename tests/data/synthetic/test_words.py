"""Vocabulary: words of contents and of stories."""

from __future__ import annotations

import re
from random import Random

from prosg.data.synthetic.story import story_of_sentences
from support.texts import CONTENTS


def test_words_of_contents_and_of_stories_are_disjoint() -> None:
    contents = {word.lower() for word in CONTENTS}
    assert len(contents) == len(CONTENTS)
    story = set(re.findall(r"\w+", story_of_sentences(Random(0), 5000).text.lower()))
    assert len(story) > 150
    assert not contents & story
