"""Functions of fla-core 0.6 as loops in PyTorch, in fla's own conventions: what `prosg.ops` calls where it is missing.

The tests of `prosg.ops.*.fla` hold for these and for the real functions alike.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor


def fused_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """r, w, k, a, b (B, T, H, K), v (B, T, H, V), w the logarithm of the decay; a state (B, H, K, V)."""
    tensors = (r, w, k, v, a, b, initial_state)
    assert not (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)), "inference only"
    return _rwkv7(r, w, k, v, a, b, scale, initial_state, output_final_state)


def chunk_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    lower_bound: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    assert lower_bound is None or bool((w >= lower_bound).all())
    assert r.dtype == k.dtype == v.dtype == a.dtype == b.dtype
    return _rwkv7(r, w, k, v, a, b, scale, initial_state, output_final_state)


def _rwkv7(r, w, k, v, a, b, scale, state, output_final_state):
    assert bool((w <= 0).all()), "w is the logarithm of the decay"
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    batch, time, heads, keys = k.shape
    narrow = r.dtype
    if state is None:
        state = k.new_zeros(batch, heads, keys, v.shape[3])
    assert state.is_contiguous()
    assert state.shape == (batch, heads, keys, v.shape[3])
    wide = torch.promote_types(narrow, torch.float32)
    r, w, k, v, a, b, state = (x.to(wide) for x in (r, w, k, v, a, b, state))
    outputs = []
    for t in range(time):
        removed = (a[:, t, :, :, None] * state).sum(2, keepdim=True)
        state = w[:, t, :, :, None].exp() * state + b[:, t, :, :, None] * removed
        state = state + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append((scale * r[:, t, :, :, None] * state).sum(2))
    return torch.stack(outputs, 1).to(narrow), state if output_final_state else None


def fused_recurrent_rwkv4(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The decay is e^-e^w; a state (B, 3, 1, C) of num, den and top, of which none is held fixed by gradients."""
    assert state.shape == (k.shape[0], 3, 1, k.shape[2])
    w = -w.exp()
    num, den, top = state.squeeze(2).unbind(1)
    outputs = []
    for t in range(k.shape[1]):
        q = torch.maximum(u + k[:, t], top)
        old, new = (top - q).exp(), (u + k[:, t] - q).exp()
        outputs.append((old * num + new * v[:, t]) / (old * den + new))
        q = torch.maximum(w + top, k[:, t])
        old, new = (w + top - q).exp(), (k[:, t] - q).exp()
        num, den, top = old * num + new * v[:, t], old * den + new, q
    return torch.stack(outputs, 1), torch.stack([num, den, top], 1).unsqueeze(2)


def recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """g (B, T, H) or g_gamma (H,): the logarithm of the decay; a state (B, H, K, V), or (B, H, V, K)."""
    assert (g is None) != (g_gamma is None)
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    batch, time, heads, keys = k.shape
    narrow = q.dtype
    g = g_gamma.expand(batch, time, heads) if g is None else g
    shape = (batch, heads, v.shape[3], keys) if state_v_first else (batch, heads, keys, v.shape[3])
    state = k.new_zeros(shape) if initial_state is None else initial_state
    assert state.shape == shape
    wide = torch.promote_types(narrow, torch.float32)
    q, k, v, state = (x.to(wide) for x in (q, k, v, state))
    state = state.mT if state_v_first else state
    outputs = []
    for t in range(time):
        state = g[:, t, :, None, None].exp() * state + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append((scale * q[:, t, :, :, None] * state).sum(2))
    after = state.mT if state_v_first else state
    return torch.stack(outputs, 1).to(narrow), after if output_final_state else None


FAKES = {
    "fla.ops.rwkv7": {"chunk_rwkv7": chunk_rwkv7, "fused_recurrent_rwkv7": fused_recurrent_rwkv7},
    "fla.ops.rwkv4": {"fused_recurrent_rwkv4": fused_recurrent_rwkv4},
    "fla.ops.simple_gla": dict.fromkeys(("chunk_simple_gla", "fused_recurrent_simple_gla"), recurrent_simple_gla),
}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the fakes where the real package would be imported from."""
    for name in ("fla", "fla.ops", *FAKES):
        module = ModuleType(name)
        vars(module).update(FAKES.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)


def without_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes kernels of several configurations take the first that runs, instead of compiling and timing all of them.

    What they take is not kept on disk: there programs look for configurations that are the fastest.
    """
    from triton.runtime.autotuner import Autotuner

    chosen: dict[int, object] = {}

    def first_that_runs(self, call, quantiles):
        if chosen.get(id(self)) is self.nargs:
            return [1.0] * len(quantiles)
        call()  # raises where it needs more than the device has; then the next is tried
        chosen[id(self)] = self.nargs
        return [0.0] * len(quantiles)

    monkeypatch.setattr(Autotuner, "do_bench", first_that_runs)
    monkeypatch.setattr(Autotuner, "check_disk_cache", lambda self, key, configs, benchmark: bool(benchmark()))


def interpret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the real package run under Triton's interpreter on a CPU.

    Some kernels convert the variable of a loop, which is a Python integer there and a scalar of Triton's when compiled.
    """
    import fla.ops.common.chunk_h
    import fla.ops.generalized_delta_rule.dplr.chunk_h_bwd
    import fla.ops.generalized_delta_rule.dplr.chunk_h_fwd
    import triton.language as tl

    def scalars(*bounds):
        for i in range(*(int(bound) for bound in bounds)):
            yield tl.full((), i, tl.int32)

    dplr = fla.ops.generalized_delta_rule.dplr
    for module in (fla.ops.common.chunk_h, dplr.chunk_h_fwd, dplr.chunk_h_bwd):
        monkeypatch.setattr(module, "range", scalars, raising=False)
