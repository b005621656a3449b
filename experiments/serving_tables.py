"""The simulation's results as a table of a page; without the packages that simulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = "| cache of each | routing | found in the cache | first token, p50 | first token, p99 | moved per request |"


def size(amount: float) -> str:
    """Bytes as people read them."""
    return f"{amount / 1e9:.3g} GB" if amount >= 1e9 else f"{amount / 1e6:.3g} MB"


def seconds(amount: float) -> str:
    """Seconds as people read them."""
    return f"{amount:.3g} s" if amount >= 1 else f"{1e3 * amount:.0f} ms"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a line for each size of cache and routing."""
    lines = [HEAD, "| --- | --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        moved = row["bytes_moved"] / row["requests"]
        cells = [
            size(row["cache_bytes"]),
            row["routing"],
            f"{100 * row['hit_rate']:.0f} %",
            seconds(row["first_p50"]),
            seconds(row["first_p99"]),
            size(moved),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
