"""The engine: answers many requests at once with one model, each under a memory of its own.

    step = schedule   requests that wait are taken in where there is room; those that are not wanted any more leave
           run        one chunk of prompts is read, then one token of every answer is written
           postprocess   what was written is told, rows that have ended leave

Rows join, step and leave as they like; each has its prompt, state, anchor, update, options of sampling, stop strings
and budget. What is drawn for a row follows from its own seed, step and number: its text is the one that it has alone.

One thread owns the model: that of `start`, or whoever calls `step`. All else may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import Tensor

from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.core.encoded import EncodedPrompt, Memory
from prosg.generation.decode import advance
from prosg.model.prosg import ProSG
from prosg.serving.answering import Answering, Listener
from prosg.serving.checks import checked_request
from prosg.serving.prefill import Prefill
from prosg.serving.prefix_cache import PrefixCache
from prosg.serving.request import Chosen, Request
from prosg.serving.row_sampling import RowSampling
from prosg.serving.slots import Slots
from prosg.serving.statistics import EngineStatistics
from prosg.serving.waiting import EngineStopped, QueueFull, WaitingList

__all__ = ["Engine", "Handle"]

MiB = 1 << 20
PACE = 0.1
"""Weight of the newest in the mean time that a request takes."""
_log = logging.getLogger(__name__)


class Handle:
    """A request that was submitted."""

    def __init__(self, engine: Engine, answering: Answering) -> None:
        self._engine, self._answering = engine, answering

    @property
    def is_done(self) -> bool:
        """Whether its end has been told."""
        return self._answering.ended

    def cancel(self) -> None:
        """Ends the request at the next step; nothing happens where it has ended."""
        self._answering.cancelled = True


class Engine:
    """Answers requests with a model, up to `max_rows` at once.

    Attributes:
        model: What answers.
        max_rows: Requests that are read and answered at once.
        queue: Requests that may wait.
        fingerprint: The model's.

    Example:
        ```python
        from prosg import load_model
        from prosg.serving import Engine, Request

        model = load_model("demo")
        engine = Engine(model)
        ids = model.prepare(["The code is 6660626. Tell a story, then give the code."])[0].ids
        engine.submit(Request(tuple(ids), model.sampling(max_tokens=80, seed=1)), print)
        while engine.step():
            pass
        ```
    """

    def __init__(
        self,
        model: ProSG,
        *,
        max_rows: int = 32,
        prefill_chunk: int = 256,
        cache_bytes: int = 256 * MiB,
        cache_folder: str | Path | None = None,
        disk_bytes: int = 4096 * MiB,
        queue: int = 256,
        fingerprint: str = "",
    ) -> None:
        """Sets up; the model is not to be changed from here on.

        Args:
            model: What answers.
            max_rows: Requests that are read and answered at once.
            prefill_chunk: Tokens of prompts that are read between two steps of the answers.
            cache_bytes: Memory for prompts that were read, to be found again; 0 for none.
            cache_folder: Where those go that do not fit; None for nowhere.
            disk_bytes: Bytes that they may take there.
            queue: Requests that may wait.
            fingerprint: The model's (`prosg.fingerprint`), where it is known; to compute it takes seconds.

        Raises:
            ValueError: for a number below 1, or a negative number of bytes.
        """
        for name, value, least in (
            ("max_rows", max_rows, 1),
            ("prefill_chunk", prefill_chunk, 1),
            ("queue", queue, 1),
            ("cache_bytes", cache_bytes, 0),
            ("disk_bytes", disk_bytes, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}, must be at least {least}")
        self.model, self.max_rows, self.queue = model.eval(), max_rows, queue
        self.fingerprint = fingerprint or model_fingerprint(model)
        self._statistics = EngineStatistics()
        folder = None if cache_folder is None else Path(cache_folder)
        self._cache = PrefixCache(
            model,
            self.fingerprint,
            most_bytes=cache_bytes,
            folder=folder,
            most_disk_bytes=disk_bytes,
        )
        self._prefill = Prefill(model, self._cache, prefill_chunk, self._statistics)
        self._slots = Slots(max_rows)
        self._rows: list[Answering] = []
        self._sampling: RowSampling | None = None
        self._texts: dict[int, str] = {}
        self._pace = self._busy = 0.0
        self._waiting: WaitingList[Answering] = WaitingList()
        self._changed = threading.Condition()  # guards what other threads see: what waits, and whether it goes on
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._stop_by = float("inf")

    def submit(self, request: Request, listener: Listener) -> Handle:
        """Takes a request in.

        Args:
            request: What is wanted.
            listener: Is told every `Piece` of the answer, and then once that it is `Finished`, on the engine's thread.
                It must not wait. Where it raises an exception its request is cancelled.

        Returns:
            By what the request can be cancelled.

        Raises:
            ValueError: for a request that this model cannot answer.
            QueueFull: where as many requests wait as may.
            EngineStopped: once the engine is being stopped.
        """
        if self.model.tokenizer is None:
            raise ValueError("this model has no tokenizer: set model.tokenizer")
        checked, memory = checked_request(request, self.model)
        answering = Answering(checked, listener, self.model.tokenizer, memory)
        self._put(answering)
        return Handle(self, answering)

    def encode(
        self, ids: Sequence[int], memory: Memory | None = None, tau: float | None = None, *, owner: str = ""
    ) -> EncodedPrompt:
        """Encodes a prompt, or finds it in the cache; waits for it, so a listener must not call this.

        Args:
            ids: The prompt.
            memory, tau: As in `ProSG.encode`.
            owner: As in `Request`.

        Raises:
            ValueError, QueueFull, EngineStopped: as `submit`.
            RuntimeError: where the engine was stopped meanwhile, or the prompt could not be read.
        """
        future: Future[EncodedPrompt] = Future()
        request, memory = checked_request(Request(tuple(ids), memory=memory, tau=tau, owner=owner), self.model)
        self._put(Answering(request, lambda _: None, None, memory, future))
        while self._thread is None and not future.done():
            self.step()
        return future.result()

    def step(self) -> bool:
        """Schedules, reads at most a chunk of prompts, and writes a token of every answer; False when idle.

        Raises:
            RuntimeError: where the engine has a thread of its own, and this is another.
        """
        if self._thread is not None and threading.current_thread() is not self._thread:
            raise RuntimeError("the engine runs on a thread of its own; only that may step")
        begun, done = time.monotonic(), sum(self._statistics.finished.values())
        self._leave()
        self._take_in()
        self._read()
        self._write()
        ended = sum(self._statistics.finished.values()) - done
        self._busy += time.monotonic() - begun
        if ended:
            self._pace += (self._busy / ended - self._pace) * (PACE if self._pace else 1.0)
            self._busy = 0.0
        with self._changed:
            return bool(self._rows or self._prefill.reading or len(self._waiting))

    def start(self) -> None:
        """Starts the thread that steps whenever there is something to do.

        Raises:
            RuntimeError: where it was started, or stopped, before.
        """
        with self._changed:
            if self._thread is not None or self._stopping:
                raise RuntimeError("the engine was started before")
            self._thread = threading.Thread(target=self._run, name="prosg-engine", daemon=True)
        self._thread.start()

    def stop(self, drain: float = 0.0) -> None:
        """Takes no more requests, finishes those that are there, and stops.

        Args:
            drain: Seconds after which what has not ended is cancelled.
        """
        with self._changed:
            self._stop_by = time.monotonic() + drain
            self._stopping = True
            self._changed.notify_all()
        if self._thread is None:
            self._run()
        elif threading.current_thread() is not self._thread:
            self._thread.join()

    def statistics(self) -> EngineStatistics:
        """What has been done so far, and what there is now."""
        with self._changed:
            now = self._statistics.copy()
            now.waiting = len(self._waiting)
        now.rows, now.reading = len(self._rows), len(self._prefill.reading)
        now.cache_bytes, now.cache_entries = self._cache.bytes, len(self._cache)
        now.disk_bytes, now.disk_entries = self._cache.disk_bytes, self._cache.files
        return now

    def _run(self) -> None:
        while True:
            busy = self.step()
            if self._stopping and (not busy or time.monotonic() >= self._stop_by):
                break
            if not busy:
                with self._changed:
                    while not len(self._waiting) and not self._stopping:
                        self._changed.wait()
        with self._changed:
            left = [*self._rows, *self._prefill.reading, *self._waiting]
        for answering in left:
            answering.cancelled = True
        self._leave()
        self._cache.flush()

    def _put(self, answering: Answering) -> None:
        with self._changed:
            if self._stopping:
                raise EngineStopped
            waiting = len(self._waiting)
            if waiting >= self.queue:
                self._statistics.refused += 1
                raise QueueFull(waiting, self._pace * (waiting + 1))
            self._waiting.push(answering.request.owner, answering)
            self._statistics.submitted += answering.future is None
            self._changed.notify_all()

    def _leave(self) -> None:
        """Ends what is not wanted any more, wherever it is."""
        now = time.monotonic()
        with self._changed:
            gone = [one for one in self._waiting if one.is_over(now)]
            for answering in gone:
                self._waiting.remove(answering)
        self._end(gone)
        gone = [one for one in self._prefill.reading if one.is_over(now)]
        if gone:
            self._prefill.drop(gone)
            self._end(gone)
        gone = [one for one in self._rows if one.is_over(now)]
        if gone:
            self._end(gone)
            self._keep_rows([slot for slot, one in enumerate(self._rows) if not one.ended])

    def _end(self, answerings: Sequence[Answering], error: Exception | None = None) -> None:
        now = time.monotonic()
        for answering in answerings:
            if error is None:
                answering.end(answering.is_over(now) or "cancelled")
            else:
                answering.end("error", f"{type(error).__name__}: {error}")
            self._count(answering)

    def _count(self, answering: Answering) -> None:
        """Takes note of a request that has ended."""
        if answering.future is None:
            finished = self._statistics.finished
            finished[answering.reason] = finished.get(answering.reason, 0) + 1

    def _take_in(self) -> None:
        """Takes in what waits, as long as there is room; what is known already goes on at once."""
        while True:
            with self._changed:
                if not len(self._waiting) or len(self._rows) + len(self._prefill.reading) >= self.max_rows:
                    return
                answering = self._waiting.pop()
            try:
                if self._prefill.begin(answering):
                    self._join([answering])
            except Exception as error:  # the others go on
                _log.exception("a request failed")
                self._end([answering], error)

    def _read(self) -> None:
        """Reads a chunk of prompts."""
        try:
            self._join(self._prefill.step())
        except Exception as error:
            _log.exception("prompts could not be read")
            self._end(self._prefill.take_failed(), error)

    def _join(self, ready: Sequence[Answering]) -> None:
        """Gives requests whose prompts are read their slots; or the prompt to whoever wants only that."""
        for answering in ready:
            place = answering.place
            assert place is not None
            answering.place = None  # it is in the slots from here on
            if answering.future is not None:
                answering.ended = True
                answering.future.set_result(place)
                self._statistics.encoded += 1
                continue
            self._slots.join(place)
            self._rows.append(answering)
            self._sampling = None

    def _write(self) -> None:
        """Writes a token of every answer, tells it, and reads it where the answer goes on."""
        if not self._rows:
            return
        try:
            tokens = self._write_tokens()
            if self._rows:
                self._slots.move(advance(self.model.backbone, self._slots.place, tokens.unsqueeze(1)))
        except Exception as error:
            _log.exception("answers could not be written")
            self._end([one for one in self._rows if not one.ended], error)
            self._keep_rows([])

    def _write_tokens(self) -> Tensor:
        """Chooses the rows' next tokens and tells them; returns those (B,) of the rows that go on."""
        logits = self._slots.place.logits
        if self._sampling is None:
            requests = [one.request for one in self._rows]
            self._sampling = RowSampling(requests, [one.written for one in self._rows], logits.device)
        tokens, finite = self._sampling.choose(logits)
        reported = self._logprobs(logits, tokens)
        self._statistics.steps += 1
        self._statistics.row_steps += len(self._rows)
        now = time.monotonic()
        going = []
        for slot, (one, token, fine) in enumerate(zip(self._rows, tokens.tolist(), finite.tolist(), strict=True)):
            if not one.written:
                self._statistics.first_token.add(now - one.arrived)
            if not fine:
                one.end("not_finite")
            elif token in one.request.sampling.ends:
                one.end("stop")
            else:
                one.write(Chosen(token, self._text(token), *reported.get(slot, (None, ()))))
                self._statistics.written_tokens += 1
            if one.ended:
                self._count(one)
            else:
                going.append(slot)
        if len(going) == len(self._rows):
            return tokens
        return tokens[torch.tensor(self._keep_rows(going), dtype=torch.int64, device=tokens.device)]

    def _keep_rows(self, kept: Sequence[int]) -> list[int]:
        """Frees the slots of all rows but these; returns where each row that stays was."""
        order = self._slots.keep(kept)
        self._rows = [self._rows[slot] for slot in order]
        self._sampling = None
        return order

    def _logprobs(self, logits: Tensor, tokens: Tensor) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        """For rows that want them: the chosen token's log-probability, and the likeliest tokens with theirs."""
        wanted = {slot: one.request.logprobs for slot, one in enumerate(self._rows) if one.request.logprobs is not None}
        if not wanted:
            return {}
        rows = torch.tensor([*wanted], device=logits.device)
        values = torch.log_softmax(logits[rows].float(), 1)
        chosen = values.gather(1, tokens[rows].unsqueeze(1)).squeeze(1).tolist()
        best = values.topk(min(max(wanted.values()), values.shape[1]))
        likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return {
            slot: (logprob, tuple(zip(ids[:count], numbers[:count], strict=True)))
            for (slot, count), logprob, (ids, numbers) in zip(wanted.items(), chosen, likeliest, strict=True)
        }

    def _text(self, token: int) -> str:
        """What a token decodes to alone."""
        if token not in self._texts:
            assert self.model.tokenizer is not None
            self._texts[token] = self.model.tokenizer.decode([token])
        return self._texts[token]
