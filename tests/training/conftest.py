"""One folder of rows and a model for all tests of training, and trainings that several of them look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prosg.data.encode import EncodedRow, encode_rows
from prosg.data.row import read_rows
from prosg.tokenizers.files import load_tokenizer
from support.training_folder import TrainingFolder, make_training_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    return make_training_folder(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def rows(folder: TrainingFolder) -> list[EncodedRow]:
    return encode_rows(read_rows(folder.train), load_tokenizer(folder.tokenizer))[0]


@pytest.fixture(scope="session")
def whole_run(folder: TrainingFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Output folders of uninterrupted trainings, by phase and options; each is run once and not to be changed."""
    runs: dict[tuple[str, ...], Path] = {}

    def run(phase: str, *options: Any) -> Path:
        key = (phase, *map(str, options))
        if key not in runs:
            out = tmp_path_factory.mktemp("runs") / "run"
            folder.run(phase, out, *options)
            runs[key] = out
        return runs[key]

    return run
