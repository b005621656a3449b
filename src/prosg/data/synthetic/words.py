"""Vocabulary of the grammars. Words of contents never occur in stories.

Contents are short words, so that a small byte-level BPE learns a token for each of them.
"""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


# Contents.
NAMES = _words(
    """
    Anna Ben Carl Dora Emma Fred Greta Hugo Ida Jack Karl Lena Mark Nora Oscar Paul Rosa Sam Tina Uma Vera Walt Yara
    Zoe Alice Bruno Clara David Ella Felix Gina Henry Iris Jonas Kate Leo Maria Nick Olga Peter
    """
)
OBJECTS = _words(
    """
    lamp rope cup key drum book coin ring bell knife hat glove map clock flute brush sword crown fan pen box bag jar
    pot bowl cap belt doll kite flag harp axe lens vase plate fork coat boot ball spoon
    """
)
PLACES = _words(
    """
    mill bank inn shop barn fort dock hall park port camp farm cafe house attic hotel tower hut tent yard school
    church castle market
    """
)
COLORS = _words("red blue green yellow purple orange pink brown golden scarlet")

# Stories.
ADJECTIVES = _words(
    """
    old young quiet tired brave happy proud shy strange lazy tiny wild wise calm clever angry noisy sad kind bold
    slow big small thin poor rich loud gentle hungry lonely
    """
)
SUBJECTS = _words(
    """
    fox owl bear wolf deer rabbit crow mouse frog horse goat duck swan hawk hen toad turtle otter farmer hunter
    baker child woman man girl boy singer sailor cat dog
    """
)
MOVES = _words(
    """
    walked ran slept rested waited danced played hid stood sat jumped sang cried laughed worked stopped turned fell
    swam hurried
    """
)
SEES = _words("saw met heard found watched called helped feared liked missed chased passed")
ADVERBS = _words("slowly softly quickly alone again together often early late sadly gladly")
PREPOSITIONS = _words("near behind across beyond beside below above under through along")
NATURE = _words(
    """
    forest river hill meadow lake valley cave field garden bridge island swamp desert shore cliff stream road path
    pond ocean marsh mountain trail bay
    """
)
TIMES = _words("today soon later then once tonight finally there here now")
SKY = _words("sun moon wind rain snow fog sky storm frost dawn")
WEATHER = _words("cold warm bright dark heavy gray cool soft pale fine")
THINGS = _words("tree leaf stone flower shadow nest cloud berry grass moss")
NUMBERS = _words("one two three four five six seven eight nine ten")
COUNTS = [*NUMBERS, *_words("eleven twelve thirteen fourteen fifteen sixteen")]
