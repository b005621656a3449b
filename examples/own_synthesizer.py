"""A synthesizer of one's own: four methods, plugged into a model, trained for a few steps.

    python examples/own_synthesizer.py [STEPS]

This one reads the prompt as a decaying mean of each layer's time-mix inputs and makes rank-1 updates of the layer's
`output` projection from it. Its memory does not grow with the prompt, and prompts may come in chunks.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prosg import LowRank, ProSG, Site, load_model
from prosg.backbones import BackboneModule
from prosg.backbones.base import Taps
from prosg.core.update import Update
from prosg.data.collate import collate
from prosg.data.encode import encode_rows
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.model.base_synthesizer import BaseSynthesizer


class Means(NamedTuple):
    """What was read of prompts so far."""

    total: Tensor
    """(L, B, E) weighted sums of the inputs"""
    weight: Tensor
    """(B,) sums of the weights"""


class MeanSynthesizer(BaseSynthesizer):
    """Rank-1 updates from the mean of a prompt's inputs, in which earlier tokens count less."""

    def __init__(self, backbone: BackboneModule, decay: float = 0.98) -> None:
        super().__init__()
        self.widths, self.decay = [width for width, _ in backbone.tap_widths], decay
        self.sites = {site: shape for site, shape in backbone.sites.items() if site.name == "output"}
        self.to_a = nn.ModuleList(nn.Linear(self.widths[site.layer], inp) for site, (_, inp) in self.sites.items())
        # Zero: at the start the update is 0, and the model is its backbone.
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(out, 1)) for out, _ in self.sites.values())

    @property
    def taps(self) -> tuple[str, ...]:
        return ("inputs",)

    def init(self, lengths: Tensor) -> Means:
        zero = lengths.new_zeros(len(lengths), dtype=torch.float32)
        return Means(zero.new_zeros(len(self.widths), len(lengths), self.widths[0]), zero)

    def read(self, reads: Means, taps: Taps, valid: Tensor) -> Means:
        after = valid.flip(1).cumsum(1).flip(1) - valid.long()  # valid tokens of the chunk after each
        weight = torch.where(valid, self.decay**after, 0.0)
        kept = self.decay ** valid.sum(1)
        chunk = torch.stack([torch.einsum("bt,bte->be", weight, inputs.float()) for inputs in taps.inputs])
        return Means(kept[:, None] * reads.total + chunk, kept * reads.weight + weight.sum(1))

    def finish(self, reads: Means) -> Update:
        mean = reads.total / reads.weight[:, None]
        return {
            Site(site.layer, site.name): LowRank(to_a(mean[site.layer]).unsqueeze(1) / inp**0.5, b)
            for (site, (_, inp)), to_a, b in zip(self.sites.items(), self.to_a, self.b, strict=True)
        }


def train(steps: int, batch_size: int = 16, seed: int = 0) -> tuple[ProSG, list[float]]:
    """Plugs the synthesizer into the demo's backbone and trains it; returns the model and every step's loss."""
    demo = load_model("demo")
    torch.manual_seed(seed)
    model = ProSG(demo.backbone)
    model.synthesizer = MeanSynthesizer(model.backbone)
    model.tokenizer, model.special = demo.tokenizer, demo.special
    model.backbone.requires_grad_(False)
    assert model.tokenizer is not None
    rows, _ = encode_rows(make_rows(DEMO_KINDS, batch_size, seed, "train"), model.tokenizer, model.special)
    batch = collate(rows, late_weight=3.0)
    inputs = {name: batch[name] for name in ("prompt", "prompt_lengths", "answer", "answer_lengths", "weights")}
    optimizer = torch.optim.AdamW(model.synthesizer.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


def main(steps: int) -> None:
    """Trains, then uses the model as any other: `encode`, `generate`, files of encoded prompts."""
    model, losses = train(steps)
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    encoded = model.encode("I want a story. It must end in the church, with the ball and the sword.")
    print(encoded)
    print(*model.generate(encoded, max_tokens=80))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="?", type=int, default=30, metavar="STEPS")
    if (steps := parser.parse_args().steps) < 1:
        parser.error(f"STEPS is {steps}, must be at least 1")
    main(steps)
