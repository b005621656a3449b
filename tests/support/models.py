"""Tiny models that leave no part idle, and the comparisons that the tests of the core make.

A later backbone joins the whole suite by one entry in `TINY`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers
import torch
from tokenizers import models, pre_tokenizers
from torch import Tensor

from prosg.backbones.retnet import RetNet, RetNetConfig
from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State
from prosg.core.update import Site
from prosg.model.config import ProSGConfig
from prosg.model.initial_state import InitialState
from prosg.model.prosg import ProSG
from prosg.tokenizers.json_file import JsonTokenizer

VOCAB = 23
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


class Tiny(NamedTuple):
    """How to make a backbone of random weights, and what a test must know of it."""

    make: Callable[[int], Any]
    """vocabulary -> backbone, still without weights of its own"""
    weight: Callable[[Any, Site], Tensor]
    """the matrix of a site, in place: the oracle merges dW into it"""
    memory: Callable[[State], list[Tensor]]
    """a state as tensors that are the same however the memory was normalised"""
    ages: bool = True
    """whether its memory can be aged by steps: where the decay depends on the text it cannot"""
    rounding: float = 1.0
    """how many times fp32's tolerance two ways of reading differ by rounding alone, on the least exact processor"""


def att_weight(backbone: Any, site: Site) -> Tensor:
    weight: Tensor = getattr(backbone.blocks[site.layer].att, site.name).weight
    return weight


def plain_memory(state: State) -> list[Tensor]:
    return [leaf for layer in state for leaf in layer]


def rwkv4_memory(state: State) -> list[Tensor]:
    return [
        part
        for layer in state
        for part in (layer.att_shift, layer.ffn_shift, layer.num / layer.den, layer.den.log() + layer.top)
    ]


def rwkv4(**sizes: int) -> Tiny:
    return Tiny(
        make=lambda vocab: RWKV4(RWKV4Config(vocab_size=vocab, **sizes)),
        weight=att_weight,
        memory=rwkv4_memory,
    )


def rwkv7(**sizes: int) -> Tiny:
    sizes = {"decay_rank": 3, "rate_rank": 4, "value_rank": 2, "gate_rank": 4, **sizes}
    return Tiny(
        make=lambda vocab: RWKV7(RWKV7Config(vocab_size=vocab, **sizes)),
        weight=att_weight,
        memory=plain_memory,
        ages=False,
    )


def retnet(**sizes: int) -> Tiny:
    return Tiny(
        make=lambda vocab: RetNet(RetNetConfig(vocab_size=vocab, **sizes)),
        weight=att_weight,
        memory=plain_memory,
    )


TINY: dict[str, Tiny] = {
    "rwkv4": rwkv4(hidden_size=12, num_layers=2),
    "rwkv4, own widths": rwkv4(hidden_size=12, num_layers=3, attention_size=20, ffn_size=28),
    "rwkv7": rwkv7(hidden_size=12, num_layers=2, head_size=6),
    "rwkv7, own widths": rwkv7(hidden_size=12, num_layers=3, head_size=5, attention_size=20, ffn_size=28),
    "retnet": retnet(hidden_size=12, num_layers=2, num_heads=3),
    "retnet, own widths": retnet(hidden_size=24, num_layers=3, num_heads=2, value_size=20, ffn_size=28)._replace(
        rounding=1.1
    ),
}

MODULES: dict[str, ProSGConfig] = {
    "paper": ProSGConfig.from_preset("paper"),
    "paper, rank 3": ProSGConfig.from_preset("paper", rank=3),
    "plus": ProSGConfig.from_preset("plus", reference_length=6.0),
    "static": ProSGConfig.from_preset("static"),
}


def live_backbone(name: str, dtype: torch.dtype = torch.float64, vocab: int = VOCAB, seed: int = 0) -> Any:
    backbone = TINY[name].make(vocab)
    generator = torch.Generator().manual_seed(seed)
    backbone.reset_parameters(generator)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() != 2 or 0 in (parameter.abs().max(), parameter.std()):  # fresh vectors are all alike
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        backbone.head.weight.normal_(generator=generator)
    return backbone.to(dtype)


def live_model(
    name: str = "rwkv4",
    module: str | None = "plus",
    dtype: torch.dtype = torch.float64,
    *,
    vocab: int = VOCAB,
    seed: int = 0,
    **changes: Any,
) -> ProSG:
    """A model whose update is as large as its weights, as it never is at the start of training."""
    backbone = live_backbone(name, dtype, vocab, seed)
    if module is None:
        return ProSG(backbone)
    model = ProSG(backbone, ProSGConfig(**(MODULES[module].to_dict() | changes)), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.synthesizer.parameters():
            parameter += 0.08 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype)


def random_initial_state(backbone: Any, seed: int = 3) -> InitialState:
    """As large as what a text leaves."""
    initial = InitialState(backbone)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in initial.layers:
            tensor += torch.randn(tensor.shape, generator=generator)
    return initial


def serves(module: str, backbone: str) -> bool:
    """`paper` needs every site to be as wide as the model."""
    tiny = TINY[backbone].make(VOCAB)
    square = all(inp == tiny.tap_widths[site.layer][0] for site, (_, inp) in tiny.sites.items())
    return square or MODULES[module].reads != "last_input"


SYSTEMS = [(backbone, module) for backbone in TINY for module in MODULES if serves(module, backbone)]


def tokens(batch: int, time: int, seed: int = 0, vocab: int = VOCAB) -> Tensor:
    return torch.randint(1, vocab, (batch, time), generator=torch.Generator().manual_seed(seed))


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the largest value."""
    assert a.shape == b.shape
    with torch.no_grad():
        return float((a - b).abs().max() / b.abs().max().clamp(min=1e-300))


def assert_near(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.dtype == b.dtype
    assert torch.isfinite(a).all()
    assert gap(a, b) <= tolerance


def assert_same_state(name: str, a: State, b: State, tolerance: float) -> None:
    for ours, theirs in zip(TINY[name].memory(a), TINY[name].memory(b), strict=True):
        assert_near(ours, theirs, tolerance)


def assert_same_update(a: Mapping[Site, Any], b: Mapping[Site, Any], tolerance: float) -> None:
    assert list(a) == list(b)
    for site in a:
        assert_near(a[site].dense(), b[site].dense(), tolerance)


def state_bits_equal(a: State, b: State) -> bool:
    return all(torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))


def same_encoded(a: EncodedPrompt, b: EncodedPrompt) -> bool:
    """Whether two encoded prompts are equal bit for bit."""
    return (
        torch.equal(a.logits, b.logits)
        and state_bits_equal(a.state, b.state)
        and (a.anchor is None) == (b.anchor is None)
        and state_bits_equal(a.anchor or (), b.anchor or ())
        and (a.limit is None) == (b.limit is None)
        and (a.limit is None or (b.limit is not None and torch.equal(a.limit, b.limit)))
        and (a.update is None) == (b.update is None)
        and set(a.update or {}) == set(b.update or {})
        and all(torch.equal(x, y) for s, d in (a.update or {}).items() for x, y in zip(d, b.update[s], strict=True))
    )


WORDS = ["<end>", "Tom", "saw", "a", "b", "c", "d", "red.", "blue.", "big!", "why?", "Names:", "Code:", "then"]
WORDS += ["ab", "<unk>"]


def word_tokenizer(special: Sequence[str] = ()) -> JsonTokenizer:
    """One token per word; a third of them end a sentence, so that a random model writes sentences."""
    inner = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(list(special))
    return JsonTokenizer(inner)
