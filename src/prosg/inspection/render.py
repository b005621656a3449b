"""What `prosg inspect` shows: a table of updates, a heat map of what was read, as text and as a picture."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prosg.core.update import Site
from prosg.inspection.updates import Compared, total
from prosg.utils.io import written_whole

__all__ = ["heat_map", "labels", "plot_attention", "table"]

SHADES = " .:-=+*#%@"
"""From nothing to a column's largest weight: characters that every terminal has."""
VALUES = 8
"""Singular values that a line has room for."""
LABELS = 120
"""Tokens up to which a picture names each of them."""


def labels(count: int) -> list[str]:
    """A, B, C, ...: names of prompts. ValueError for more than the alphabet has."""
    if count > len(string.ascii_uppercase):
        raise ValueError(f"{count} prompts; at most {len(string.ascii_uppercase)} are compared at once")
    return list(string.ascii_uppercase[:count])


def table(compared: Mapping[Site, Compared]) -> Iterator[str]:
    """A line per site and prompt: relative norm, singular values, cosine with each prompt's; and all sites together."""
    rows = {str(site): values for site, values in compared.items()} | {"all": total(compared)}
    names = labels(len(rows["all"].inner))
    width = max(map(len, rows)) + 2
    values = 9 * min(VALUES, max(site.singular.shape[1] for site in rows.values()))
    cosines = f"cosine with {', '.join(names)}" if len(names) > 1 else ""
    yield f"{'site':<{width}}   |dW|/|W|  {'singular values':<{values}}  {cosines}".rstrip()
    for site, row in rows.items():
        for i, name in enumerate(names):
            numbers = "".join(f"{value:9.3g}" for value in row.singular[i, :VALUES].tolist())
            alike = "".join(f"{value:7.3f}" for value in row.cosine[i].tolist()) if len(names) > 1 else ""
            start = f"{site if i == 0 else '':<{width}}{name}"
            yield f"{start}  {row.relative[i]:7.4f}  {numbers:<{values}}  {alike}".rstrip()


def heat_map(attention: Mapping[Site, Tensor], row: int, tokens: Sequence[str], most: int = 40) -> Iterator[str]:
    """A line per token of a prompt: its share of all reads, and a shade per layer and site.

    most: of a longer prompt only this many tokens are shown, those with the largest shares, in their order; 0: all.
    """
    shares = _shares(attention, row, len(tokens))
    mean = shares.mean(0)
    shown = range(len(tokens))
    if 0 < most < len(tokens):
        shown = sorted(mean.topk(most).indices.tolist())  # type: ignore[assignment]
    places = len(str(len(tokens) - 1))
    texts = [_visible(text) for text in tokens]
    width = max(len(texts[t]) for t in shown)
    layers = [site.layer for site in attention]
    first = [layer not in layers[:i] for i, layer in enumerate(layers)]
    names = dict.fromkeys(site.name for site in attention)
    yield f"share of all reads; by layer and site ({', '.join(names)}), each up to its own largest: {SHADES!r}"
    for t in shown:
        shades = "".join(
            " " * start + SHADES[int(share / top * (len(SHADES) - 1) + 0.5)]
            for start, share, top in zip(first, shares[:, t].tolist(), shares.amax(1).tolist(), strict=True)
        )
        yield f"{t:>{places}} {texts[t]:<{width}} {mean[t]:6.1%} {shades}".rstrip()
    if len(shown) < len(tokens):
        left = len(tokens) - len(shown)
        yield f"{left} more tokens hold {1 - float(mean[list(shown)].sum()):.1%} of the reads"


def plot_attention(
    path: str | Path, attention: Mapping[Site, Tensor], tokens: Sequence[Sequence[str]], *, overwrite: bool = True
) -> None:
    """Draw a heat map per prompt as PNG: a row per site, a column per token, the mean over the site's reads."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sites = [str(site) for site in attention]
    longest = max(map(len, tokens))
    width = min(max(6.0, 2.0 + 0.16 * longest), 60.0)
    figure = Figure(figsize=(width, len(tokens) * (1.2 + 0.16 * len(sites))), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(len(tokens), 1, squeeze=False)[:, 0]
    for i, (axis, texts) in enumerate(zip(axes, tokens, strict=True)):
        image = axis.imshow(
            _shares(attention, i, len(texts)).numpy(), aspect="auto", cmap="viridis", interpolation="nearest"
        )
        figure.colorbar(image, ax=axis, fraction=0.02, pad=0.01)
        axis.set_title(f"prompt {labels(len(tokens))[i]}", loc="left", fontsize=9)
        axis.set_yticks(range(len(sites)), sites, fontsize=6)
        if len(texts) <= LABELS:
            # A dollar sign would begin a formula.
            shown = [_visible(text).replace("$", r"\$") for text in texts]
            axis.set_xticks(range(len(texts)), shown, rotation=90, fontsize=6)
        else:
            axis.set_xlabel("token", fontsize=8)
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _shares(attention: Mapping[Site, Tensor], row: int, length: int) -> Tensor:
    """(sites, T) the mean over a site's reads, on the CPU."""
    return torch.stack([weights[row, :, :length].mean(0) for weights in attention.values()]).float().cpu()


def _visible(text: str) -> str:
    """A token as a line can hold it: spaces as a mark, other blanks and what is not printed by their escapes."""
    return "".join("\u2423" if c == " " else c if c.isprintable() else ascii(c)[1:-1] for c in text)
