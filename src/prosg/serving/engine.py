"""The engine: answers many requests at once with one model, each under a memory of its own.

    step = schedule   requests that wait are taken in where there is room; those that are not wanted any more leave
           run        one chunk of prompts is read, then one token of every answer is written
           postprocess   what was written is told, rows that have ended leave

Rows join, step and leave as they like; each has its prompt, state, anchor, update, options of sampling, stop strings
and budget. What is drawn for a row follows from its own seed, step and number: its text is the one that it has alone.

One thread owns the model: that of `start`, or whoever calls `step`. All else may be called from any thread.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import torch

from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.core.encoded import EncodedPrompt, Memory
from prosg.model.prosg import ProSG
from prosg.serving.answering import Answering, Listener
from prosg.serving.checks import checked_request
from prosg.serving.decoding import Decoding
from prosg.serving.prefill import Prefill
from prosg.serving.prefix_cache import PrefixCache
from prosg.serving.request import Request
from prosg.serving.statistics import EngineStatistics
from prosg.serving.waiting import EngineStopped, QueueFull, WaitingList
from prosg.utils.allocation import keep_freed_memory

__all__ = ["Engine", "Handle"]

MiB = 1 << 20
PACE = 0.1
"""Weight of the newest in the mean time that a request takes."""
_log = logging.getLogger(__name__)


class Handle:
    """A request that was submitted."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

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
        queue: Requests that may wait, beside those for which there is a free row. Owners who wait share it alike.
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
        self._decoding = Decoding(model, max_rows, self._statistics)
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
        return Handle(answering)

    def encode(
        self, ids: Sequence[int], memory: Memory | None = None, tau: float | None = None, *, owner: str = ""
    ) -> EncodedPrompt:
        """Encodes a prompt, or finds it in the cache; waits for it, so a listener must not call this.

        Args:
            ids: The prompt.
            memory: As in `ProSG.encode`.
            tau: As in `ProSG.encode`.
            owner: As in `Request`.

        Raises:
            ValueError, QueueFull, EngineStopped: as `submit`.
            RuntimeError: where the engine was stopped meanwhile, or the prompt could not be read.
        """
        future = self.begin_encoding(ids, memory, tau, owner=owner)
        while self._thread is None and not future.done():
            self.step()
        return future.result()

    def begin_encoding(
        self,
        ids: Sequence[int],
        memory: Memory | None = None,
        tau: float | None = None,
        *,
        owner: str = "",
        deadline: float | None = None,
    ) -> Future[EncodedPrompt]:
        """As `encode`, but waits for nothing: the prompt, or a RuntimeError, comes later.

        Args:
            ids, memory, tau, owner: As in `encode`.
            deadline: As in `Request`.

        Raises:
            ValueError, QueueFull, EngineStopped: as `submit`.
        """
        future: Future[EncodedPrompt] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it, and the engine need not ask
        asked = Request(tuple(ids), memory=memory, tau=tau, owner=owner, deadline=deadline)
        request, memory = checked_request(asked, self.model)
        self._put(Answering(request, lambda _: None, None, memory, future))
        return future

    @torch.no_grad()  # an anchor follows from weights: what rows wrote into the slots would keep all of its graph
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
            return bool(self._decoding.rows or self._prefill.reading or len(self._waiting))

    def start(self) -> None:
        """Starts the thread that steps whenever there is something to do.

        Raises:
            RuntimeError: where it was started, or stopped, before.
        """
        with self._changed:
            if self._thread is not None or self._stopping:
                raise RuntimeError("the engine was started before")
            self._thread = threading.Thread(target=self._run, name="prosg-engine", daemon=True)
        keep_freed_memory()
        atexit.register(self.stop)  # an interpreter that ends under a thread in PyTorch's code is aborted
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
        atexit.unregister(self.stop)
        if self._thread is None:
            self._run()
        elif threading.current_thread() is not self._thread:
            self._thread.join()

    def statistics(self) -> EngineStatistics:
        """What has been done so far, and what there is now."""
        with self._changed:
            now = self._statistics.copy()
            now.waiting = len(self._waiting)
        now.rows, now.reading = len(self._decoding.rows), len(self._prefill.reading)
        now.cache_bytes, now.cache_entries = self._cache.bytes, len(self._cache)
        now.disk_bytes, now.disk_entries = self._cache.disk_bytes, self._cache.files
        return now

    def _run(self) -> None:
        while True:
            try:
                busy = self.step()
            except Exception as error:  # nobody would be told anything any more
                self._fail([*self._decoding.rows, *self._prefill.reading], error)
                self._prefill.drop([*self._prefill.reading])
                self._decoding.free()
                busy = True
            if self._stopping and (not busy or time.monotonic() >= self._stop_by):
                break
            if not busy:
                with self._changed:
                    while not len(self._waiting) and not self._stopping:
                        self._changed.wait()
        with self._changed:
            left = [*self._decoding.rows, *self._prefill.reading, *self._waiting]
        for answering in left:
            answering.cancelled = True
        self._leave()
        self._cache.flush()

    def _put(self, answering: Answering) -> None:
        with self._changed:
            if self._stopping:
                raise EngineStopped
            waiting = len(self._waiting)
            free = max(0, self.max_rows - len(self._decoding.rows) - len(self._prefill.reading))
            if not self._waiting.room(answering.request.owner, self.queue + free):
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
        self._prefill.drop(gone)
        self._end(gone)
        self._end([one for one in self._decoding.rows if one.is_over(now)])
        self._decoding.free()

    def _end(self, answerings: Sequence[Answering]) -> None:
        """Ends requests that are not wanted any more."""
        now = time.monotonic()
        for answering in answerings:
            answering.end(answering.is_over(now) or "cancelled")
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
                taken = len(self._decoding.rows) + len(self._prefill.reading)
                if not len(self._waiting) or taken >= self.max_rows:
                    return
                answering = self._waiting.pop()
            try:
                is_read = self._prefill.begin(answering)
            except Exception as error:  # the others go on
                self._fail([answering], error)
                continue
            if is_read:
                self._join(answering)

    def _read(self) -> None:
        """Reads a chunk of prompts."""
        try:
            ready = self._prefill.step()
        except Exception as error:
            self._fail(self._prefill.take_failed(), error)
            return
        for answering in ready:
            self._join(answering)

    def _join(self, answering: Answering) -> None:
        """Gives a request whose prompt is read its slot; or the prompt to whoever wants only that."""
        if answering.future is not None:
            assert answering.place is not None
            self._statistics.encoded += 1
            answering.ended = True
            answering.future.set_result(answering.place)
            return
        try:
            self._decoding.join(answering)
        except Exception as error:
            self._fail([answering], error)

    def _write(self) -> None:
        """Writes a token of every answer, tells it, and reads it where the answer goes on."""
        try:
            for answering in (*self._decoding.choose(), *self._decoding.read()):
                self._count(answering)
        except Exception as error:
            self._fail([one for one in self._decoding.rows if not one.ended], error)
            self._decoding.free()

    def _fail(self, answerings: Sequence[Answering], error: Exception) -> None:
        """Ends requests by an error, whose traceback goes to the log."""
        _log.error("%d requests failed", len(answerings), exc_info=error)
        for answering in answerings:
            answering.fail(error)
            self._count(answering)
