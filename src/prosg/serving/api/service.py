"""What every request needs: the model and the engine that runs it, stored prompts, keys, limits, metrics."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.core.encoded import Memory
from prosg.data.templates import ChatTemplate
from prosg.model.prosg import ProSG
from prosg.serving.api.keys import KeyRing, open_keys
from prosg.serving.api.limits import Limiter
from prosg.serving.api.metrics import Metrics
from prosg.serving.api.options import ApiOptions
from prosg.serving.api.prompts import PromptStore
from prosg.serving.api.storage import open_storage
from prosg.serving.engine import Engine
from prosg.tokenizers.base import Tokenizer

__all__ = ["Plan", "Service", "open_service", "run_service"]


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
    keys = open_keys(options)
    fingerprint = fingerprint or model_fingerprint(model)
    with tempfile.TemporaryDirectory(prefix="prosg-prompts-") as temporary:
        storage = open_storage(options.prompts or temporary)
        prompts = PromptStore(storage, model, fingerprint, options.prompt_cache << 20)
        yield Service(
            model, name, engine, chosen, held, tau, options, prompts, keys, fingerprint, Metrics(engine.statistics)
        )


@dataclass(frozen=True)
class Plan:
    """All that a server follows from, before anything is loaded: other processes can have it, too.

    Attributes:
        load: Loads the model, with a tokenizer.
        engine: Options of `Engine`, but its fingerprint.
        api: What is accepted.
        name, template, memory, tau: As in `open_service`.
    """

    load: Callable[[], ProSG]
    engine: Mapping[str, Any]
    api: ApiOptions
    name: str
    template: str = ""
    memory: Memory | None = None
    tau: float | None = None


@contextmanager
def run_service(plan: Plan) -> Iterator[Service]:
    """Loads a model, and runs its engine until the block ends.

    Raises:
        ValueError: as `load` and `open_service`, and for what `Engine` refuses.
    """
    model = plan.load()
    fingerprint = model_fingerprint(model)
    engine = Engine(model, fingerprint=fingerprint, **plan.engine)
    with open_service(
        model,
        engine,
        plan.api,
        name=plan.name,
        template=plan.template,
        memory=plan.memory,
        tau=plan.tau,
        fingerprint=fingerprint,
    ) as service:
        engine.start()
        # Full collections of garbage come when a share of all objects is new: without those that stay, soon.
        gc.collect()
        gc.freeze()
        try:
            yield service
        finally:
            gc.unfreeze()
            engine.stop(0.0)
