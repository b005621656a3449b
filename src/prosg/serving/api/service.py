"""What every request needs: the model and the engine that runs it, stored prompts, keys, limits, metrics."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.core.encoded import Memory
from prosg.data.templates import ChatTemplate
from prosg.model.prosg import ProSG
from prosg.serving.api.keys import Key, KeyRing
from prosg.serving.api.limits import Limiter
from prosg.serving.api.metrics import Metrics
from prosg.serving.api.options import ApiOptions
from prosg.serving.api.prompts import PromptStore
from prosg.serving.api.storage import open_storage
from prosg.serving.engine import Engine
from prosg.tokenizers.base import Tokenizer
from prosg.utils.paths import user_path

__all__ = ["LOCAL", "Service", "open_service"]

LOCAL = Key(id="local", name="local")
"""Who sends requests where there are no keys."""


@dataclass
class Service:
    """The parts of a server.

    Attributes:
        model: What answers.
        name: What clients call it.
        engine: What runs it, in a thread of its own.
        template: How conversations are written.
        memory: What holds prompts where nothing says otherwise.
        tau: Window of their anchors, tokens; None for the model's own.
        options: What is accepted.
        prompts: The stored prompts.
        keys: The keys; None where none are needed.
        fingerprint: The model's.
        limiter: What each key uses.
        metrics: Counters.
        started: Unix time.
        draining: Whether the server is about to end, and begins nothing.
    """

    model: ProSG
    name: str
    engine: Engine
    template: ChatTemplate
    memory: Memory
    tau: float | None
    options: ApiOptions
    prompts: PromptStore
    keys: KeyRing | None
    fingerprint: str
    metrics: Metrics
    limiter: Limiter = field(default_factory=Limiter)
    started: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model, which has one."""
        assert self.model.tokenizer is not None
        return self.model.tokenizer


@contextmanager
def open_service(
    model: ProSG,
    engine: Engine,
    options: ApiOptions,
    *,
    name: str,
    template: str = "",
    memory: Memory | None = None,
    tau: float | None = None,
    fingerprint: str = "",
) -> Iterator[Service]:
    """Puts the parts of a server together; the engine is started and stopped by the caller.

    Args:
        model: What answers, with a tokenizer.
        engine: What runs it.
        options: What is accepted.
        name: What clients call the model.
        template: Name of a chat template; the model's own by default.
        memory: What holds prompts unless a request says otherwise; the model's own by default.
        tau: Window of their anchors, tokens.
        fingerprint: The model's (`prosg.fingerprint`), where it is known.

    Raises:
        ValueError: for an unknown template, a memory that the model cannot have, and keys that cannot be read.
    """
    chosen = model.own_template.choose(template, model.tokenizer)
    held = model.check_memory(memory, tau)
    keys = KeyRing(Path(user_path(options.keys))) if options.keys else None
    fingerprint = fingerprint or model_fingerprint(model)
    with tempfile.TemporaryDirectory(prefix="prosg-prompts-") as temporary:
        prompts = PromptStore(open_storage(options.prompts or temporary), model, fingerprint)
        yield Service(
            model, name, engine, chosen, held, tau, options, prompts, keys, fingerprint, Metrics(engine.statistics)
        )
