"""A model's own chat template, in Jinja, rendered as transformers does: sandboxed, with the same names and filters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from prosg.data.templates import OWN, FramedPrompt, Turn
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.special import SpecialTokens
from prosg.utils.outside import plain_reason

__all__ = ["JinjaTemplate"]

PRIVATE = range(0xE000, 0xF900)
"""Code points without a meaning, one of which marks where a text must be cut."""
PROBE = "PROSG"
"""Stands for what a turn says where a template is looked at."""


class JinjaTemplate:
    """A Jinja template of a model's files; a `ChatTemplate`.

    Special tokens that the template spells are tokens. Those that a turn spells are not: the text is cut within them
    before it is tokenised (`FramedPrompt.cuts`). In a turn that is not the assistant's the same holds for every token
    that the template itself spells: it may open a turn, whatever the tokenizer's file says of it.

    Attributes:
        source: The template.
        tokens: Special tokens by the names that the template knows them by: bos_token, eos_token, ...
        place: The file that it came from, for errors.
    """

    name = OWN
    reshapes = False

    def __init__(
        self, source: str, tokens: Mapping[str, str], special: Sequence[str], place: str, added: Sequence[str] = ()
    ) -> None:
        """Takes a template as it is: it is compiled when it is first used, and only then found to be broken.

        Args:
            source: As attribute.
            tokens: As attribute.
            special: Spellings of the tokenizer's special tokens.
            place: As attribute.
            added: Spellings of tokens that the tokenizer finds before it applies any other rule, special or not.
        """
        self.source, self.tokens, self.place = source, dict(tokens), place
        self._special = re.compile(_any_of(special))
        self._first = _first_character(special)
        self._tokens, self._added = special, added

    @cached_property
    def _first_typed(self) -> re.Pattern[str]:
        """First characters of the tokens that a turn which is not the assistant's must not spell."""
        # Some templates put a token's name together from parts: it stands in what they write, not in their source.
        roles = ("system", "user", "assistant", "user")
        written = [self.source]
        for begin in range(2):
            with suppress(ValueError):  # it has no system turn, or is broken, which is told where it is used
                written.append(self._render([{"role": role, "content": PROBE} for role in roles[begin:]], True))
        spelled = (token for token in self._added if token.strip() and any(token in text for text in written))
        return _first_character([*self._tokens, *spelled])

    def frame(self, turns: Sequence[Turn]) -> FramedPrompt:
        return self._framed(turns, begins=True)

    def opening(self, turn: Turn) -> str | None:
        try:
            return self._framed([turn], begins=False).text
        except ValueError:  # many templates want a user's turn
            return None

    @cached_property
    def closing(self) -> str:
        """What is written between an answer and the user's next turn; "" where that cannot be told."""
        answer, after = f"{PROBE}2", f"{PROBE}3"
        turns = [Turn("user", PROBE), Turn("assistant", answer), Turn("user", after)]
        try:
            text = self._framed(turns, begins=True).text
        except ValueError:  # it writes one turn only
            return ""
        between = text.partition(answer)[2]
        return between.partition(after)[0] if after in between else ""

    @property
    def stop(self) -> str:
        """The plain text with which what comes after an answer begins."""
        return self._special.split(self.closing, maxsplit=1)[0].rstrip()

    def special(self, own: SpecialTokens, tokenizer: Tokenizer) -> SpecialTokens:
        """The special token that comes after an answer ends one, too; what stands in front the template writes."""
        first = self._special.search(self.closing)
        token = tokenizer.token_id(first[0]) if first is not None and not self.stop else None
        return SpecialTokens(own.end if token is None else tuple(dict.fromkeys((token, *own.end))), None)

    def jinja(self) -> str:
        return self.source

    def _framed(self, turns: Sequence[Turn], begins: bool) -> FramedPrompt:
        said = "".join(turn.text for turn in turns)
        mark = next(chr(code) for code in PRIVATE if chr(code) not in said and chr(code) not in self.source)

        def cut(turn: Turn) -> str:
            first = self._first if turn.role == "assistant" else self._first_typed
            return first.sub(lambda match: match[0] + mark, turn.text)

        rendered = self._render([{"role": turn.role, "content": cut(turn)} for turn in turns], begins)
        pieces = rendered.split(mark)
        ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces) - 1)]
        return FramedPrompt("".join(pieces), tuple(ends))

    def _render(self, messages: list[dict[str, str]], begins: bool) -> str:
        """The text of messages; `begins`: also what opens the assistant's turn."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        render: Any = render_jinja_template
        try:
            (text,), _ = render([messages], chat_template=self.source, add_generation_prompt=begins, **self.tokens)
        except (
            TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            number = getattr(error, "lineno", None)  # of a syntax error
            line = "" if number is None else f", line {number}"
            raise ValueError(f"{self.place}: chat template{line}: {plain_reason(error)}") from None
        return str(text)


def _any_of(tokens: Iterable[str]) -> str:
    """A pattern of any of some tokens, the longest first."""
    return "|".join(map(re.escape, sorted({*tokens} - {""}, key=len, reverse=True))) or "(?!)"


def _first_character(tokens: Iterable[str]) -> re.Pattern[str]:
    """The first character of any of some tokens, also of one that begins within another."""
    return re.compile(f"(?={_any_of(tokens)}).", re.DOTALL)
