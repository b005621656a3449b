"""Grammars of instructions as people write them, for pretrained models: password, guests, meeting.

Their checks let a model word its line as it likes: what the prompt gave has to be there, and no other number, name or
word of the kind's lists. The demo's want the line exactly, as a model that was trained on such lines writes it.
"""

from __future__ import annotations

from random import Random

from prosg.data.checks import Check
from prosg.data.synthetic.demo_grammars import NAME_COUNT, code_of, draw_names, story_then_late
from prosg.data.synthetic.grammar import AnswerPart, Contents, Grammar, RowDraft, listing
from prosg.data.synthetic.story import Story
from prosg.data.synthetic.words import OBJECTS, PLACES

__all__ = ["GUESTS", "MEETING", "PASSWORD"]

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PASSWORD_PROMPTS = (
    "Please remember this password: {code}. First write {story}. When the story is finished, start a new line with "
    '"Password:" and repeat the password.',
    'The password is {code}. Write {story}, and after it a line that begins with "Password:" and gives the password.',
    "I will need the password {code} again later. Tell me {story} now. At the very end, on a line that starts with "
    '"Password:", tell me what the password was.',
)
PASSWORD_ALONE = (
    'The password is {code}. Write one line that begins with "Password:" and gives the password.',
    'Please repeat the password {code} on a line that starts with "Password:".',
)
GUESTS_PROMPTS = (
    "These people are coming to my party: {names}. Write {story} that I can read to them. Then, on a line that begins "
    'with "Guests:", list everyone who is coming.',
    'I have invited {names}. Tell me {story}, and end with a line that starts with "Guests:" and names all of them.',
)
GUESTS_ALONE = (
    'I have invited {names}. Write one line that starts with "Guests:" and names all of them.',
    'These people are coming: {names}. List them on a line that begins with "Guests:".',
)
MEETING_PROMPTS = (
    "We meet on {day} at the {place}, and I have to bring the {thing}. Write {story} while I wait. After the story, "
    'start a line with "Reminder:" and tell me the day, the place and what to bring.',
    "Remember for me: {day}, at the {place}, with the {thing}. Now tell me {story}. When it is over, write a line that "
    'begins with "Reminder:" and says when and where I am to be, and with what.',
)
MEETING_ALONE = (
    "We meet on {day} at the {place}, and I have to bring the {thing}. On a line that begins with "
    '"Reminder:", tell me the day, the place and what to bring.',
)


def _only(contents: Contents, **rest: object) -> Check:
    return {"type": "only", "items": list(contents), **rest}


def draw_password(rng: Random) -> Contents:
    return code_of(rng, 5)


def build_password(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    late = AnswerPart("repeat the password", "Password:", contents[0], _only(contents, sort="number"))
    return story_then_late(rng, PASSWORD_PROMPTS, PASSWORD_ALONE, story, late, code=contents[0])


def build_guests(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    late = AnswerPart("list the guests", "Guests:", f"{listing(contents)}.", _only(contents, sort="name"))
    return story_then_late(rng, GUESTS_PROMPTS, GUESTS_ALONE, story, late, names=listing(contents))


def draw_meeting(rng: Random) -> Contents:
    return rng.choice(DAYS), rng.choice(PLACES), rng.choice(OBJECTS)


def build_meeting(contents: Contents, rng: Random, story: Story | None) -> RowDraft:
    day, place, thing = contents
    body = f"{day}, at the {place}, with the {thing}."
    others = [word for word in (*DAYS, *PLACES, *OBJECTS) if word not in contents]
    late = AnswerPart("tell day, place and what to bring", "Reminder:", body, _only(contents, others=others))
    return story_then_late(rng, MEETING_PROMPTS, MEETING_ALONE, story, late, day=day, place=place, thing=thing)


PASSWORD = Grammar("password", draw_password, build_password)
GUESTS = Grammar("guests", draw_names, build_guests, items=NAME_COUNT)
MEETING = Grammar("meeting", draw_meeting, build_meeting)
