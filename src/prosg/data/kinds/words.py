"""The words of the grammars: contents, which prompts give and late stages need, never stand among a story's words.

Contents are short, so that a small byte-level BPE soon has a token for each of them.
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
    old young quiet clever tired gentle brave lonely happy hungry proud shy strange lazy curious tiny wild wise calm
    clumsy cheerful angry sleepy noisy humble eager patient honest sad kind
    """
)
SUBJECTS = _words(
    """
    fox owl bear wolf deer rabbit crow mouse frog horse goat duck swan hawk beaver badger turtle otter farmer hunter
    shepherd child woman man sailor painter singer doctor soldier stranger
    """
)
MOVES = _words(
    """
    walked ran slept rested waited danced wandered played hid stood sat jumped crawled sang cried laughed dreamed
    worked traveled stopped
    """
)
SEES = _words("saw met followed heard found watched called helped feared liked missed chased")
ADVERBS = _words(
    """
    slowly softly quickly alone again together often happily sadly bravely gladly calmly early late forever proudly
    """
)
PREPOSITIONS = _words("near behind across beyond beside below above under through along")
NATURE = _words(
    """
    forest river hill meadow lake valley mountain cave field garden bridge island swamp desert shore cliff stream
    road path pond ocean marsh canyon glacier orchard
    """
)
TIMES = _words("today soon later then yesterday once sometimes tonight finally meanwhile")
SKY = _words("sun moon wind rain snow fog sky storm frost thunder")
WEATHER = _words("cold warm bright dark heavy gray cool soft strong pale")
THINGS = _words("tree leaf stone flower branch shadow nest cloud feather berry")
NUMBERS = _words("one two three four five six seven eight nine ten")
