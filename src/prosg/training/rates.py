"""Learning rates of a module's parameters by the sizes of its backbone, so that one rate serves small and large ones.

AdamW moves every number by about its rate, whatever the gradient's size. What a step does to a module's *output* then
grows with the number of inputs of a matrix, and what it does to the backbone's grows with the number of layers whose
updates add up. So, as factors of `optim.lr`, never above 1:

    W_x, W_m            WIDTH / width of the backbone        maps of the taps
    L1, L2, L_A, L_B    BOTTLENECK / bottleneck              the stack, and the maps of what was read
    B0, L_B, c_B        LAYERS / layers with sites           times the one above: what opens an update

The three sizes are those at which the rate of recipe `plus` was chosen, the demo's; there every factor is 1. The rule
is muP's for Adam (arXiv 2203.03466), with the layers' updates counted as they add up in the residual stream.
"""

from __future__ import annotations

import torch
from torch import nn

from prosg.model.synthesizer import Synthesizer

__all__ = ["rate_factors", "scale_rates"]

WIDTH, BOTTLENECK, LAYERS = 96, 24, 4


def rate_factors(synthesizer: nn.Module | None) -> dict[str, float]:
    """Returns the factor of each parameter's learning rate, by its name; 1 for modules that read no positions."""
    if not isinstance(synthesizer, Synthesizer) or not synthesizer.config.reads_positions:
        return {} if synthesizer is None else {name: 1.0 for name, _ in synthesizer.named_parameters()}
    width = min(1.0, WIDTH / max(synthesizer.input_widths))
    bottleneck = min(1.0, BOTTLENECK / synthesizer.config.bottleneck)
    depth = min(1.0, LAYERS / len(synthesizer.layers))

    def factor(name: str, parameter: nn.Parameter) -> float:
        parts = name.split(".")
        opens = depth if {"base_b", "map_b"} & {*parts} else 1.0
        if parts[-1] != "weight" or parameter.dim() != 2:
            return opens
        return opens * (width if {"from_input", "from_memory"} & {*parts} else bottleneck)

    return {name: factor(name, parameter) for name, parameter in synthesizer.named_parameters()}


def scale_rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Splits an optimiser's groups by `rate_factors`; unchanged where all are 1. Before its first step.

    Args:
        optimizer: Over the model's parameters.
        model: With a module in `synthesizer`.
    """
    synthesizer = getattr(model, "synthesizer", None)
    factors = rate_factors(synthesizer)
    if synthesizer is None or all(factor == 1 for factor in factors.values()):
        return
    by_parameter = {id(parameter): factors[name] for name, parameter in synthesizer.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        own: dict[float, list[torch.Tensor]] = {
            factor: [] for factor in sorted({by_parameter.get(id(p), 1.0) for p in group["params"]}, reverse=True)
        }
        for parameter in group["params"]:
            own[by_parameter.get(id(parameter), 1.0)].append(parameter)
        groups += [{**group, "params": part, "lr": group["lr"] * factor} for factor, part in own.items()]
    optimizer.param_groups[:] = groups
