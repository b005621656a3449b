"""Rows of the kind `pairs` that ask for several of the prompt's pairs, not for one: looking up is learned from them.

    python experiments/pair_questions.py --size 24000 --items 2 8 --out questions.jsonl

Each row is one of `prosg data make --kinds pairs`; between the story and what the prompt asks for come questions after
the other pairs, each answered ("Turn: What does Kate have?", "Answer: The brown ring."), in an order of their own. The
questions are given: read, not learned. That many queries of one text teach associative recall is known from
multi-query associative recall (Arora et al., Zoology, arXiv 2312.04927).
"""

from __future__ import annotations

from random import Random

from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.data.row import Row, write_rows
from prosg.data.synthetic.demo_grammars import exact
from prosg.data.synthetic.difficulty import Difficulty, check_range, with_turns
from prosg.data.synthetic.grammar import AnswerPart, row_from_draft
from prosg.data.synthetic.other_grammars import PAIRS
from prosg.data.synthetic.row_generator import draw_contents
from prosg.data.synthetic.splits import SPLITS
from prosg.data.synthetic.story import story_of_sentences


def question(name: str, thing: str) -> list[AnswerPart]:
    """The two parts of a question: its words, which are given, and its answer."""
    words, body = f"What does {name} have?", f"The {thing}."
    return [
        AnswerPart("read another question", "Turn:", words, exact("Turn:", words), given=True),
        AnswerPart(f"say what {name} has", "Answer:", body, exact("Answer:", body)),
    ]


def questions_row(rng: Random, items: tuple[int, int], sentences: tuple[int, int], split: str) -> Row:
    """A row that asks for all pairs, the prompt's own last."""
    contents = draw_contents(PAIRS, rng, split, items)
    draft = PAIRS.build(contents, rng, story_of_sentences(rng, rng.randint(*sentences)))
    others = list(zip(contents[2::2], contents[3::2], strict=True))
    rng.shuffle(others)
    return row_from_draft(PAIRS, contents, with_turns(draft, [part for pair in others for part in question(*pair)]))


def main() -> None:
    """Writes the file."""
    parser = ScriptParser(__doc__)
    parser.add_out("the jsonl file to write", required=True)
    parser.add_argument("--size", type=positive_int, default=1000, help="rows")
    parser.add_argument("--items", type=positive_int, nargs=2, default=(2, 8), help="pairs that a prompt gives")
    parser.add_argument("--sentences", type=positive_int, nargs=2, default=(1, 3), help="sentences of the story")
    parser.add_argument("--split", choices=list(SPLITS), default="train", help="contents never overlap")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other rows")
    options = parser.parse_args()
    try:
        Difficulty(items=tuple(options.items)).check(PAIRS)
        check_range("sentences", tuple(options.sentences))
    except ValueError as error:
        parser.error(str(error))
    rows = []
    for index in range(options.size):
        rng = Random(f"{options.seed}/{options.split}/questions/{index}")
        rows.append(questions_row(rng, tuple(options.items), tuple(options.sentences), options.split))
    write_rows(options.out, rows)


if __name__ == "__main__":
    run_script(main)
