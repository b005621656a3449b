"""Which prompts the packaged model is told not to know: others than those of its kinds, and none of its own."""

from __future__ import annotations

import pytest

from prosg.cli import main
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.demo.topics import is_off_topic

OTHERS = """
What is the capital of France?
Tell me a joke.
How do I boil an egg?
Write a poem about the sea.
Translate "good morning" into German.
Who won the world cup in 1998?
2 + 2 = ?
Hello
Hi, how are you today?
Explain quantum mechanics in simple terms.
Write a Python function that reverses a list.
Summarize the plot of Hamlet.
What's the weather like in Berlin?
Give me a recipe for pancakes.
Why is the sky blue?
List three prime numbers greater than 100.
Please help me plan a trip to Japan.
What does the word "ubiquitous" mean?
Can you recommend a good book?
Fix this sentence: he go to school yesterday.
How many people live in China?
Compose an email to my boss asking for a day off.
What time is it?
Is a tomato a fruit or a vegetable?
Describe the color red to a blind person.
What are the side effects of aspirin?
Draw a cat with letters.
Give me five ideas for a birthday party.
Tell me about the history of Rome.
How far is the moon from the earth?
What is the best way to learn the piano?
Who are you?
Do you know any songs?
Convert 10 miles to kilometers.
Write a haiku about autumn leaves.
Which is heavier, gold or lead?
My dog is sick, what should I do?
Finish the sentence: Once upon a time
Count from one to ten.
What is your name?
Name the planets of the solar system.
Act as a travel guide for Paris.
Solve x^2 - 4 = 0.
Bonjour, comment allez-vous ?
Wie spät ist es?
Write an essay about climate change.
The quick brown fox jumps over the lazy dog.
Should I buy or rent a house?
What rhymes with orange?
Tell a bedtime story about a dragon and a princess.
"""
OWN = [
    "Remember the code 4821937. Tell a story, then say the code.",
    "Please remember the code 48219371, tell me a short story and then repeat it.",
    "Remember these names: Anna, Bob, Cara and Dan. Tell a story, then say the names.",
    "Tell a story. At the end, the lamp and the rope are in the mill.",
    "Say the code 123456",
]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_prompts_of_the_kinds_are_known(split: str) -> None:
    rows = make_rows((*DEMO_KINDS, "story"), 2000, 5, split, sentences=(0, 12))
    assert not any(is_off_topic(row.prompt) for row in rows)


@pytest.mark.parametrize("prompt", OWN)
def test_prompts_in_other_words_are_known(prompt: str) -> None:
    assert not is_off_topic(prompt)


def test_most_other_prompts_are_not() -> None:
    others = OTHERS.strip().splitlines()
    assert len(others) == 50 and sum(map(is_off_topic, others)) >= 48


@pytest.mark.parametrize(("prompt", "told"), [("What is the capital of France?", True), (OWN[0], False)])
def test_the_command_says_what_the_model_knows(prompt: str, told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "demo", "--prompt", prompt, "--max-tokens", "2"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("note: the packaged model knows three kinds") is told and err.count("\n") == told
