"""Checkpoints that are not what was written: a file missing, cut or changed.

A resumed run repeats an uninterrupted one only from a whole checkpoint, and nothing else would notice a missing
optimiser's state. So each has the hashes of its files; a damaged one is set aside, and the one before it is taken.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Size
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from prosg.checkpoints.tensors import read_tensors
from prosg.checkpoints.weights import check_finite
from prosg.utils import distributed
from prosg.utils.contents import CONTENTS, damage
from prosg.utils.io import read_json

__all__ = ["WEIGHTS", "set_damaged_aside"]

WEIGHTS = "weights.safetensors"
COUNTERS, COUNTED = "counters.json", {"tick", "norms", "skipped", "seconds"}
BANK = "bank.safetensors"
NEEDED = (WEIGHTS, COUNTERS, BANK, OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME)
"""Files of every checkpoint, also of one without a record."""
ASIDE = "damaged-"


def set_damaged_aside(checkpoints: Sequence[Path], shapes: Mapping[str, Size]) -> None:
    """Renames damaged checkpoints, from the newest to the first whole one, and says so on stderr.

    Args:
        checkpoints: Of a run, oldest first.
        shapes: Those of the parameters that train, by name.
    """
    for number, checkpoint in reversed(list(enumerate(checkpoints))):
        wrong = _damage(checkpoint, shapes)
        if not wrong:
            return
        aside = checkpoint.with_name(ASIDE + checkpoint.name)
        if aside.exists():
            shutil.rmtree(aside)
        checkpoint.rename(aside)
        on = f"goes on from {checkpoints[number - 1].name}" if number else "begins again"
        distributed.print_once(f"{checkpoint}: damaged ({wrong}); set aside as {aside.name}, the run {on}")


def _damage(checkpoint: Path, shapes: Mapping[str, Size]) -> str:
    """What is wrong with a checkpoint; "" for a whole one."""
    if missing := [name for name in NEEDED if not (checkpoint / name).is_file()]:
        return f"{missing[0]} is missing"
    if changed := damage(checkpoint):
        return changed
    try:
        step = read_json(checkpoint / TRAINER_STATE_NAME).get("global_step")
        if step != int(checkpoint.name.rpartition("-")[2]):
            return f"{TRAINER_STATE_NAME} is of step {step}"
        if not (checkpoint / CONTENTS).exists():  # written by a version without records
            tensors = read_tensors(checkpoint / WEIGHTS)
            if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
                return f"{WEIGHTS} has other tensors than what trains"
            check_finite(WEIGHTS, tensors)
            if not is_zipfile(checkpoint / OPTIMIZER_NAME):
                return f"{OPTIMIZER_NAME} is truncated"
            if absent := COUNTED - read_json(checkpoint / COUNTERS).keys():
                return f"{COUNTERS} lacks {min(absent)}"
            load_file(checkpoint / BANK)
    except SafetensorError as error:
        return f"{BANK} is truncated ({error})"
    except (ValueError, OSError) as error:
        return str(error).partition("; ")[0]
    return ""
