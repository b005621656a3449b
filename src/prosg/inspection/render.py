"""What `prosg inspect` shows: a comparison_table of updates, a heat map of what was read, as text and as a picture."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prosg.core.update import Site
from prosg.inspection.updates import UpdateComparison, over_all_sites
from prosg.utils.io import written_whole
from prosg.utils.tables import counted

__all__ = ["attention_heat_map", "comparison_table", "plot_attention", "prompt_labels"]

SHADES = " .:-=+*#%@"
"""From zero to a column's largest weight, in characters that every terminal has."""
MAX_SINGULAR_VALUES = 8
"""Singular values per line of a table."""
MAX_TOKEN_LABELS = 120
"""Longest prompt, in tokens, of which a picture labels every token."""


def prompt_labels(count: int) -> list[str]:
    """Returns the names of prompts: A, B, C, ... Raises ValueError for more than 26."""
    if count > len(string.ascii_uppercase):
        raise ValueError(f"{count} prompts; at most {len(string.ascii_uppercase)} are compared at once")
    return list(string.ascii_uppercase[:count])


def comparison_table(comparisons: Mapping[Site, UpdateComparison]) -> Iterator[str]:
    """Yields the lines of a table: for each site, and all sites together, a line per prompt.

    A line holds |dW| / |W|, the largest singular values, and the cosine similarity with the dW of each prompt.
    """
    rows = {str(site): comparison for site, comparison in comparisons.items()} | {"all": over_all_sites(comparisons)}
    names = prompt_labels(len(rows["all"].inner))
    width = max(map(len, rows)) + 2
    values = 9 * min(MAX_SINGULAR_VALUES, max(site.singular.shape[1] for site in rows.values()))
    cosines = f"cosine with {', '.join(names)}" if len(names) > 1 else ""
    yield f"{'site':<{width}}   |dW|/|W|  {'singular values':<{values}}  {cosines}".rstrip()
    for site, row in rows.items():
        for i, name in enumerate(names):
            numbers = "".join(f"{value:9.3g}" for value in row.singular[i, :MAX_SINGULAR_VALUES].tolist())
            cosine = "".join(f"{value:7.3f}" for value in row.cosine[i].tolist()) if len(names) > 1 else ""
            start = f"{site if i == 0 else '':<{width}}{name}"
            yield f"{start}  {row.relative[i]:7.4f}  {numbers:<{values}}  {cosine}".rstrip()


def attention_heat_map(
    attention: Mapping[Site, Tensor], row: int, tokens: Sequence[str], most: int = 40
) -> Iterator[str]:
    """Yields the lines of a heat map: for each token its share of all reads, and a shade per layer and site.

    Args:
        attention: Weights (P, n, T) by site, as of `prompt_attention`.
        row: Which prompt.
        tokens: The texts of its tokens.
        most: Show only this many tokens, those with the largest shares, in their order; 0 for all.
    """
    shares = _shares(attention, row, len(tokens))
    mean = shares.mean(0)
    all_shown = not 0 < most < len(tokens)
    shown = list(range(len(tokens))) if all_shown else sorted(mean.topk(most).indices.tolist())
    places = len(str(len(tokens) - 1))
    texts = [_visible(text) for text in tokens]
    width = max(len(texts[t]) for t in shown)
    layers = [site.layer for site in attention]
    first_of_layer = [layer not in layers[:i] for i, layer in enumerate(layers)]
    names = dict.fromkeys(site.name for site in attention)
    yield f"share of all reads; by layer and site ({', '.join(names)}), each up to its own largest: {SHADES!r}"
    for t in shown:
        shades = "".join(
            " " * start + SHADES[int(share / top * (len(SHADES) - 1) + 0.5)]
            for start, share, top in zip(first_of_layer, shares[:, t].tolist(), shares.amax(1).tolist(), strict=True)
        )
        yield f"{t:>{places}} {texts[t]:<{width}} {mean[t]:6.1%} {shades}".rstrip()
    if not all_shown:
        yield f"{counted(len(tokens) - most, 'more token')} hold {1 - float(mean[shown].sum()):.1%} of the reads"


def plot_attention(
    path: str | Path, attention: Mapping[Site, Tensor], tokens: Sequence[Sequence[str]], *, overwrite: bool = True
) -> None:
    """Draws a heat map per prompt into a PNG file: a row per site, a column per token, the mean over the site's reads.

    Args:
        path: The file.
        attention: Weights (P, n, T) by site, as of `prompt_attention`.
        tokens: For each prompt the texts of its tokens.
        overwrite: Replace the file.
    """
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
        axis.set_title(f"prompt {prompt_labels(len(tokens))[i]}", loc="left", fontsize=9)
        axis.set_yticks(range(len(sites)), sites, fontsize=6)
        if len(texts) <= MAX_TOKEN_LABELS:
            # matplotlib takes a dollar sign for the start of a formula.
            shown = [_visible(text).replace("$", r"\$") for text in texts]
            axis.set_xticks(range(len(texts)), shown, rotation=90, fontsize=6)
        else:
            axis.set_xlabel("token", fontsize=8)
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _shares(attention: Mapping[Site, Tensor], row: int, length: int) -> Tensor:
    """Returns the mean over each site's reads, (sites, T), on the CPU."""
    return torch.stack([weights[row, :, :length].mean(0) for weights in attention.values()]).float().cpu()


def _visible(text: str) -> str:
    """Returns a token on one line: spaces as "\u2423", other characters that do not print as escapes."""
    return "".join("\u2423" if c == " " else c if c.isprintable() else ascii(c)[1:-1] for c in text)
