"""Prompts that are being read, a chunk at a time, between the steps of those that are being answered.

One call reads at most a chunk. In turn it is that of the prompt that came first and that of the one with the least
left, so that neither waits for long: a short prompt not for a long one, and a long one not for all the short ones that
come after it. What else fits into the chunk is read along, as rows of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from prosg.core.encoded import EncodedPrompt, with_update
from prosg.core.tensors import pad
from prosg.generation.decode import advance
from prosg.model.prosg import ProSG
from prosg.serving.answering import Answering
from prosg.serving.prefix_cache import PrefixCache
from prosg.serving.slots import join_places
from prosg.serving.statistics import EngineStatistics

__all__ = ["Prefill"]


class Prefill:
    """Reads the prompts of requests.

    Attributes:
        reading: Requests whose prompts are being read, in the order in which they came.
    """

    def __init__(self, model: ProSG, cache: PrefixCache, chunk: int, statistics: EngineStatistics) -> None:
        """Sets up; `chunk` is the number of tokens per call."""
        self.model, self.cache, self.chunk, self.statistics = model, cache, chunk, statistics
        self.reading: list[Answering] = []
        self._followers: list[Answering] = []  # of those: another reads the same prompt
        self._group: list[Answering] = []
        self._is_firsts_turn = False

    def begin(self, answering: Answering) -> bool:
        """Takes a request in, at the end of what is known of its prompt; returns whether that is all of it."""
        encoded = answering.request.encoded
        if encoded is not None:
            answering.place = encoded.replace(known=None)
        elif any(self._reads_for(one, answering) for one in self.reading):
            self._followers.append(answering)
        else:
            self._look_up(answering)
        if answering.left:
            self.reading.append(answering)
        return not answering.left

    def step(self) -> list[Answering]:
        """Reads a chunk; returns the requests whose prompts have been read."""
        if not self.reading:
            return []
        self._look_up_followers()
        able = [one for one in self.reading if one not in self._followers and one.left]
        if not able:
            return self._take_ready()
        self._is_firsts_turn = not self._is_firsts_turn
        first = able[0] if self._is_firsts_turn else min(able, key=lambda one: one.left)
        if first.place is not None:
            self._group = self._fitting(first, lambda one: one.place is not None)
            self._read_rest(self._group)
        elif self._is_fresh(first):
            update = with_update(first.memory or "none")
            self._group = self._fitting(
                first, lambda one: self._is_fresh(one) and with_update(one.memory or "none") == update
            )
            self._read_whole(self._group, update)
        else:
            self._group = [first]
            self._read_part(first)
        self.statistics.chunks += 1
        self._group = []
        return self._take_ready()

    def _take_ready(self) -> list[Answering]:
        """Takes out the requests whose prompts have been read."""
        ready = [one for one in self.reading if one.place is not None and not one.left]
        self.reading = [one for one in self.reading if one.place is None or one.left]
        return ready

    def _reads_for(self, one: Answering, other: Answering) -> bool:
        """Whether what one is reading will be found in the cache by the other."""
        return (
            self.cache.most_bytes > 0
            and one.place is None
            and one not in self._followers
            and one.request.owner == other.request.owner
            and with_update(one.memory or "none") == with_update(other.memory or "none")
            and one.prompt == other.prompt
        )

    def _look_up_followers(self) -> None:
        """Looks for the prompts of those that waited for another to read the same, once that has been done."""
        for follower in self._followers[:]:
            self._followers.remove(follower)
            if any(self._reads_for(one, follower) for one in self.reading if one is not follower):
                self._followers.append(follower)
            else:
                self._look_up(follower)

    def drop(self, answering: Sequence[Answering]) -> None:
        """Leaves requests out."""
        self.reading = [one for one in self.reading if one not in answering]
        self._followers = [one for one in self._followers if one not in answering]

    def take_failed(self) -> list[Answering]:
        """The requests that the last step read, if it failed; they are left out."""
        failed, self._group = self._group, []
        self.drop(failed)
        return failed

    def _is_fresh(self, answering: Answering) -> bool:
        """Whether a prompt can be read in one call, from its beginning."""
        if answering.place is not None or answering.reader is not None:
            return False
        return len(answering.prompt) <= self.chunk or not self.model.backbone.continues

    def _fitting(self, first: Answering, allowed: Callable[[Answering], bool]) -> list[Answering]:
        """The first, and what fits into its chunk beside it: rows are padded to the longest."""

        def size(one: Answering) -> int:
            return len(one.reading) - one.read

        group, width = [first], size(first)
        for one in self.reading:
            if one is not first and one not in self._followers and allowed(one):
                widest = max(width, size(one))
                if widest * (len(group) + 1) <= self.chunk:
                    group.append(one)
                    width = widest
        return group

    def _read_whole(self, group: Sequence[Answering], update: bool) -> None:
        """Reads prompts that fit into one call."""
        ids = pad([one.prompt for one in group]).to(self.model.device)
        lengths = torch.tensor([len(one.prompt) for one in group], device=ids.device)
        reader = self.model.reader(lengths, update=update)
        reader.read(ids, lengths, chunk=ids.shape[1])
        encoded = reader.finish()
        for row, one in enumerate(group):
            self.statistics.read_tokens += len(one.prompt)
            self._keep(one, encoded.take([row]) if len(group) > 1 else encoded)

    def _read_part(self, answering: Answering) -> None:
        """Reads the next chunk of a long prompt, or of one of which the beginning is known."""
        if answering.reader is None:
            length = torch.tensor([len(answering.prompt)], device=self.model.device)
            answering.reader = self.model.reader(length, update=with_update(answering.memory or "none"))
        ids = torch.tensor([answering.next_ids(self.chunk)], device=self.model.device)
        answering.reader.read(ids, torch.tensor([ids.shape[1]], device=ids.device), chunk=ids.shape[1])
        answering.read += ids.shape[1]
        self.statistics.read_tokens += ids.shape[1]
        if answering.read == len(answering.prompt):
            self._keep(answering, answering.reader.finish())

    def _read_rest(self, group: Sequence[Answering]) -> None:
        """Reads on under the memories of prompts."""
        parts = [one.next_ids(self.chunk) for one in group]
        places = [one.place for one in group if one.place is not None]
        lengths = torch.tensor([len(part) for part in parts], device=self.model.device)
        after = advance(
            self.model.backbone,
            join_places(places),
            pad(parts).to(self.model.device),
            lengths if len(parts) > 1 else None,
        ).replace(update=None, anchor=None)
        for row, (one, place, part) in enumerate(zip(group, places, parts, strict=True)):
            new = after.take([row]) if len(group) > 1 else after
            one.place = place.replace(state=new.state, logits=new.logits)
            one.read += len(part)
            self.statistics.read_tokens += len(part)
            if one.chain and not one.left:
                self.cache.put(one.chain, one.rest, new)

    def _look_up(self, answering: Answering) -> None:
        """Finds what is known of a prompt: all of it, or, where no module has to be shown all, a beginning."""
        update, prompt = with_update(answering.memory or "none"), answering.prompt
        # A module has to be shown all of a prompt; that one was shown what another only reads does not matter.
        chains = [self._chain(shown, answering) for shown in ([True] if update else [False, True])]
        least = len(prompt) if update or not self.model.backbone.continues else 1
        found = [known for chain in chains if (known := self.cache.longest(chain, prompt, least)) is not None]
        if not found:
            self.statistics.cache_misses += 1
            return
        length, place = max(found, key=lambda one: one[0])
        self._hit(answering, length)
        if length == len(prompt):
            self._hold(answering, place)
            return
        answering.read = length
        lengths = torch.tensor([len(prompt)], device=self.model.device)
        answering.reader = self.model.reader(lengths, update=False, state=place.state)

    def _keep(self, answering: Answering, encoded: EncodedPrompt) -> None:
        """Takes a prompt that was read into the cache, and holds it."""
        update = with_update(answering.memory or "none")
        self.cache.put(self._chain(update, answering), answering.prompt, encoded)
        self._hold(answering, encoded)

    def _hold(self, answering: Answering, encoded: EncodedPrompt) -> None:
        """Holds a prompt as the request says, and finds what is known of what comes after it."""
        memory, tau = answering.memory, answering.request.tau
        assert memory is not None
        place = self.model.hold(encoded, memory, tau)
        answering.reader, answering.read = None, 0
        if answering.rest:
            answering.chain = self.cache.chain("rest", answering.request.owner, memory, tau, after=answering.prompt)
            if (found := self.cache.longest(answering.chain, answering.rest)) is not None:
                answering.read, later = found
                self._hit(answering, answering.read)
                place = place.replace(state=later.state, logits=later.logits)
        answering.place = place

    def _hit(self, answering: Answering, tokens: int) -> None:
        answering.cached += tokens
        self.statistics.cache_hits += 1
        self.statistics.cached_tokens += tokens

    def _chain(self, update: bool, answering: Answering) -> str:
        """Of the owner's own prompts: whether another has asked the same would tell what it asked."""
        return self.cache.chain("prompt", answering.request.owner, update)
