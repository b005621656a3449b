"""A system that runs here: a model, and what is done to its prompts and its memory before it answers.

rows -> framed, tokenised -> prompts encoded, batch by batch -> the condition (whose update, which state) -> answers,
scores. Conditions are applied to the batch at hand, so memory does not grow with the number of rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from prosg.checkpoints.anchor import load_anchor
from prosg.checkpoints.fingerprints import hash_weights, model_fingerprint
from prosg.checkpoints.initial_state import load_initial
from prosg.checkpoints.load import load_model, require_tokenizer
from prosg.core.encoded import EncodedPrompt, Memory, with_update
from prosg.core.state import State, join_states
from prosg.core.tensors import pad
from prosg.core.update import Update, join_updates, mean_update
from prosg.data.encode import EncodedRow, encode_row, frame_row, template_of
from prosg.data.row import Row
from prosg.data.templates import NONE, ChatTemplate, FramedPrompt
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import GenerationConfig, SystemConfig
from prosg.evaluation.controls import Condition, derangement, encode_training
from prosg.evaluation.systems.prompts import read_twice
from prosg.generation.decode import Replay
from prosg.generation.sampling import Sampling
from prosg.generation.text import generate_texts
from prosg.model.anchor import mean_state
from prosg.model.perplexity import RowScore, score_rows
from prosg.model.prosg import ProSG
from prosg.utils.device import parse_dtype, resolve_device

MEAN_BYTES = 700 * 2**20
"""Most bytes of the mean updates of rows that are answered at once."""
ANSWER_OPTIONS = ("dtype", "window", "replay_every", "refresh_every", "refresh_keep")
"""Options of a system that its answers follow from, beside its model, its memory and its condition."""

__all__ = ["LocalSystem", "check_model", "memory_of", "open_model"]


def open_model(config: SystemConfig, device: str) -> ProSG:
    """Loads the model of a system, with its learned initial state if it has one.

    Raises:
        ValueError: for what cannot be loaded, and as `check_model`.
    """
    device = resolve_device(device)
    model = load_model(
        config.model,
        base=config.base or None,
        tokenizer=config.tokenizer or None,
        dtype=parse_dtype(config.dtype or None),
        device=device,
        end_token=config.end_token,
        begin_token=config.begin_token,
    )
    if config.initial:
        model.initial = load_initial(config.initial, model.backbone).to(device)
    if config.anchor:
        model.anchor = load_anchor(config.anchor, model.backbone)
    check_model(config, model)
    trained = model.own_template.trained
    if not config.template and trained is not None and trained != NONE:
        print(f"{config.model}: template: {trained.name}, as it was trained (another with `template`)", file=sys.stderr)
    return model


def check_model(config: SystemConfig, model: ProSG) -> None:
    """Raises ValueError where a model cannot be what the system's options say."""
    require_tokenizer(model, config.model)
    try:
        memory = model.check_memory(config.memory or None, config.tau or None, _age(config))
    except ValueError as error:
        raise ValueError(f"{config.model}: {error}") from None
    if memory == "none" and config.update in ("other", "mean"):
        raise ValueError(f"{config.model}: has no update, and memory is 'none': update {config.update!r} cannot be had")
    if config.window and not with_update(memory):
        raise ValueError(f"{config.model}: no module reads its prompts here, so there is none to show windows to")


def _age(config: SystemConfig) -> float | None:
    return None if config.age < 0 else config.age


def memory_of(config: SystemConfig, model: ProSG) -> Memory:
    """What holds the prompts of a system."""
    return "none" if config.update == "none" else (config.memory or model.memory)


class LocalSystem:
    """A model under a condition, and the rows that it answers.

    Attributes:
        config: Options of the system.
        model: Its model.
        condition: Whose update and anchor act, and which state.
        memory: Which of them do.
        rows: The rows as the model sees them.
        encoded_rows: The same as token ids.
        ends: Ids of the tokens that end each row's answer.
    """

    def __init__(
        self,
        config: SystemConfig,
        model: ProSG,
        rows: Sequence[Row],
        training: dict[str, list[Row]],
        seed: int,
    ) -> None:
        """Frames and tokenises rows.

        Args:
            config: Options of the system.
            model: Its model.
            rows: What is asked.
            training: Rows by kind, for the mean update.
            seed: Of the draw of whose update another's is.
        """
        self.config, self.model, self.seed = config, model, seed
        self.tokenizer = require_tokenizer(model, config.model)
        self.memory = memory_of(config, model)
        self.condition = Condition("none" if self.memory == "none" else config.update, config.state)
        self.kinds = [row.kind for row in rows]
        self.templates = [self._template(row) for row in rows]
        self.rows = [self._framed(row) for row in rows]
        special = [template.special(model.special, self.tokenizer) for template in self.templates]
        self.ends = [row.end for row in special]
        self.encoded_rows: list[EncodedRow] = [
            encode_row(row, self.tokenizer, own) for row, own in zip(self.rows, special, strict=True)
        ]
        self.training = {kind: [self._prompt(row) for row in some] for kind, some in training.items()}

    def _template(self, row: Row) -> ChatTemplate:
        return template_of(row, self.config.template, self.tokenizer, self.model.own_template)

    def _framed(self, row: Row) -> Row:
        row = read_twice(row) if self.config.prompt == "twice" else row
        return frame_row(row, self.config.template, self.tokenizer, self.model.own_template)

    def _prompt(self, row: Row) -> FramedPrompt:
        framed = self._framed(row)
        return FramedPrompt(framed.prompt, framed.cuts)

    @functools.cached_property
    def partners(self) -> list[int]:
        """For each row the row whose update and anchor act on it."""
        if self.condition.update == "other":
            return derangement(self.kinds, self.seed, [row.prompt for row in self.rows])
        return list(range(len(self.rows)))

    @functools.cached_property
    def means(self) -> dict[str, tuple[Update | None, State | None]]:
        """The mean update and the mean state of each kind, over training prompts, as far as the memory needs them."""
        means, pulls_back = {}, self.model.pulls_back(self.memory)
        for kind in sorted(set(self.kinds)):
            framed = self.training.get(kind, [])
            prompts = [prompt.prompt_ids(self.tokenizer, self.model.special) for prompt in framed]
            read = list(encode_training(self.model, kind, prompts, "update" if with_update(self.memory) else "none"))
            updates = [one.update for one in read if one.update is not None]
            means[kind] = (
                mean_update(updates, 1) if updates else None,
                mean_state(self.model.backbone, [one.state for one in read]) if pulls_back else None,
            )
        return means

    def at_once(self, rows: int) -> int:
        """How many of so many rows can be answered at once: the mean update is as large as what it changes."""
        if self.condition.update != "mean" or not with_update(self.memory):
            return rows
        sites = self.model.backbone.sites.values()  # of full rank: a (min(O, I), I) and b (O, min(O, I)) of each, fp32
        size = sum(4 * min(outputs, inputs) * (outputs + inputs) for outputs, inputs in sites)
        return min(rows, max(1, MEAN_BYTES // size))

    def encode(self, indices: Sequence[int]) -> EncodedPrompt:
        """The prompts of some rows under the system's condition."""
        synthesize, whose = with_update(self.memory), self.condition.update
        pulls_back = self.model.pulls_back(self.memory)
        own = self._read(indices, synthesize and (whose == "own" or (whose == "mean" and self.memory == "auto")))
        source = own
        if whose == "other":
            source = self._read([self.partners[i] for i in indices], synthesize)
        elif whose == "mean":
            updates, states = zip(*(self.means[self.kinds[i]] for i in indices), strict=True)
            target = join_states(states) if pulls_back else own.state
            source = own.replace(state=target, update=join_updates(updates) if synthesize else None)
        # Without what holds the prompt, as a control, a system has the options of its anchor nonetheless.
        anchor = (self.config.tau or None, _age(self.config)) if pulls_back else ()
        held = self.model.held_by(source, self.memory, *anchor)
        state = self.model.init_state(own.batch) if self.condition.state == "wiped" else own.state
        return EncodedPrompt(state, held.update, own.logits, held.anchor, limit=held.limit)

    def _read(self, indices: Sequence[int], synthesize: bool) -> EncodedPrompt:
        """The prompts of some rows, without an anchor; with their own updates where wanted."""
        prompts = [self.encoded_rows[i].prompt for i in indices]
        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(ids) for ids in prompts], device=device)
        window = self.config.window or None if synthesize else None
        memory: Memory = "update" if synthesize else "none"
        return self.model.encode(pad(prompts).to(device), lengths, memory=memory, window=window)

    def scores(self, batch_size: int) -> list[RowScore]:
        """Scores every row's answer, teacher-forced."""
        return score_rows(self.model, self.encoded_rows, self.at_once(batch_size), self.encode)

    def settings(self, generation: GenerationConfig) -> list[dict[str, Any]]:
        """All that each row's answer follows from."""
        common: dict[str, Any] = {
            "model": model_fingerprint(self.model),
            "initial": _hash_of(self.model.initial),
            "tokenizer": self.tokenizer.fingerprint,
            "system": {name: getattr(self.config, name) for name in ANSWER_OPTIONS},
            "condition": list(self.condition),
            "memory": [self.memory, self.config.tau, self.config.age, _hash_of(self.model.anchor)],
            "generation": dataclasses.asdict(generation),
        }
        if self.condition.update == "mean":
            kinds = sorted(set(self.kinds))
            common["training"] = {kind: [prompt.text for prompt in self.training.get(kind, [])] for kind in kinds}
        return [
            {
                **common,
                "special": list(self.model.special._replace(end=self.ends[i])),
                "prompt": row.prompt,
                "number": encoded.row_id,
                "marker": self._marker(i),
                "stop": self._stop(i),
                "other": self.rows[self.partners[i]].prompt if self.condition.update == "other" else "",
            }
            for i, (row, encoded) in enumerate(zip(self.rows, self.encoded_rows, strict=True))
        ]

    def _marker(self, index: int) -> str:
        stages = self.rows[index].stages
        return stages[-1].marker if len(stages) > 1 else ""

    def _stop(self, index: int) -> str:
        """Where an answer ends that goes on with the user's next turn."""
        return self.templates[index].stop

    def read_again(self, index: int, written: int, late: bool = False) -> int:
        """Tokens of a row's prompt and answer that are read once more while `written` tokens are written.

        Args:
            index: Of the row.
            written: Tokens of the answer; nothing is read again after the last one.
            late: Whether a late stage follows, before which a state may be begun anew or the prompt be read.
        """
        system, prompt = self.config, len(self.encoded_rows[index].prompt)
        tokens = prompt * (written // system.replay_every if system.replay_every else 0)
        if system.refresh_every:  # the newest of the tokens kept would have been read in any case
            begun = range(system.refresh_every, written + 1, system.refresh_every)
            tokens += sum(min(system.refresh_keep, place) - 1 for place in begun)
        if late:
            tokens += system.late_replay * prompt + system.late_refresh * min(system.refresh_keep, written)
        return tokens

    @property
    def rereads(self) -> bool:
        """Whether anything is read again while an answer is written."""
        system = self.config
        return bool(system.replay_every or system.refresh_every or system.late_replay or system.late_refresh)

    def replay(self, indices: Sequence[int]) -> Replay | None:
        """The prompts of some rows, where they are read again while an answer is written."""
        every = self.config.replay_every
        return Replay([self.encoded_rows[i].prompt for i in indices], every) if every else None

    def write(self, indices: Sequence[int], generation: GenerationConfig) -> list[Answer]:
        """Writes answers to some rows, in one batch; from the last stage's marker on at the late temperature."""
        sampling = Sampling(
            **dataclasses.asdict(generation),
            force_marker=[self._marker(i) for i in indices],
            refresh_every=self.config.refresh_every,
            refresh_keep=self.config.refresh_keep,
        )
        written = generate_texts(
            self.model.backbone,
            self.encode(indices),
            self.tokenizer,
            sampling,
            numbers=np.array([self.encoded_rows[i].row_id for i in indices], dtype=np.uint64),
            replay=self.replay(indices),
            stops=[self._stop(i) for i in indices],
            ends=[self.ends[i] for i in indices],
        )
        return [
            Answer(self.rows[i].id, answer.text, len(answer.ids), answer.reason)
            for i, answer in zip(indices, written, strict=True)
        ]


def _hash_of(initial: torch.nn.Module | None) -> str:
    digest = hashlib.sha256()
    if initial is not None:
        hash_weights(digest, initial)
    return digest.hexdigest()
