"""Places of stages in answers without labels."""

from __future__ import annotations

from prosg.data.row import Stage
from prosg.musi.stages import can_pass, find_quote, is_evidence, leaks, place_stages

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


def test_a_quote_of_next_to_nothing_shows_nothing() -> None:
    answer = "The sea is wide.\n5\n🙂\n...\n大海很宽。"
    for quote in ("sea", "is wide.", "THE SEA", "5", "🙂", "大海", " 5 "):
        assert is_evidence(quote, answer), quote
    for quote in (".", "", " ", "...", "s", "is", '"e"', "大", "。", "-", "a lake"):
        assert not is_evidence(quote, answer), quote


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
    assert can_pass({"type": "all_of", "checks": [ANY, {"type": "ends_with", "text": "b"}]}, "a b c")
