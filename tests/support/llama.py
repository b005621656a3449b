"""llama.cpp, through llama-cpp-python, as an oracle. Import it only where `llama_cpp` is installed."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from torch import Tensor


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, data: Any) -> None:
    """Takes llama.cpp's messages."""


llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))


class Engine:
    """One sequence of a model of llama.cpp, on one thread."""

    def __init__(self, model: Path) -> None:
        options = {"n_ctx": 1024, "n_threads": 1, "n_threads_batch": 1, "logits_all": True, "verbose": False}
        self.llm: Any = llama_cpp.Llama(str(model), **options)
        self.adapters: list[Any] = []

    def close(self) -> None:
        """Frees the adapters and the model."""
        for adapter in self.adapters:
            llama_cpp.llama_adapter_lora_free(adapter)
        self.llm.close()

    @property
    def context(self) -> Any:
        return self.llm.ctx

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Reads tokens on from where the sequence is. Returns the logits (T, V)."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        start = llama_cpp.llama_memory_seq_pos_max(llama_cpp.llama_get_memory(self.context), 0) + 1
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, start + i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        assert llama_cpp.llama_decode(self.context, batch) == 0
        llama_cpp.llama_batch_free(batch)
        rows = [llama_cpp.llama_get_logits_ith(self.context, i) for i in range(len(tokens))]
        return torch.from_numpy(np.stack([np.ctypeslib.as_array(row, (self.llm.n_vocab(),)) for row in rows]).copy())

    def clear(self) -> None:
        """Forgets the sequence."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def adapt(self, path: Path | None) -> None:
        """Has one adapter act from here on, or none."""
        if path is None:
            assert llama_cpp.llama_set_adapters_lora(self.context, None, 0, None) == 0
            return
        adapter = llama_cpp.llama_adapter_lora_init(self.llm.model, str(path).encode())
        assert adapter, f"{path} does not load"
        self.adapters.append(adapter)
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        assert llama_cpp.llama_set_adapters_lora(self.context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0

    def invocation(self) -> list[int]:
        """The ids that activate the last adapter, as llama.cpp read them."""
        number = llama_cpp.llama_adapter_get_alora_n_invocation_tokens(self.adapters[-1])
        ids = llama_cpp.llama_adapter_get_alora_invocation_tokens(self.adapters[-1])
        return [ids[i] for i in range(number)]

    def load(self, path: Path) -> list[int]:
        """Loads a saved sequence. Returns its tokens."""
        tokens, count = (llama_cpp.llama_token * 1024)(), ctypes.c_size_t()
        size = llama_cpp.llama_state_seq_load_file(
            self.context, str(path).encode(), 0, tokens, len(tokens), ctypes.byref(count)
        )
        assert size == path.stat().st_size
        return list(tokens[: count.value])

    def tokenise(self, text: str) -> list[int]:
        """Ids of a text, by the vocabulary in the model file."""
        ids: list[int] = self.llm.tokenize(text.encode(), add_bos=False, special=False)
        return ids
