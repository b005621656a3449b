"""Stage 5: the data set as jsonl and Parquet, split by clusters of near-duplicates, with a data card and hashes.

The folder is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prosg.data.row import Row, row_to_dict, write_rows
from prosg.data.synthetic import SPLITS
from prosg.llm.config import EndpointConfig
from prosg.musi.config import BuildConfig
from prosg.musi.review import BUILD_DECISIONS, apply_decisions, read_decisions
from prosg.musi.similar import splits_by_cluster
from prosg.musi.stats import count_rows, statistics_text
from prosg.utils.extras import missing_extra
from prosg.utils.io import written_whole
from prosg.utils.progress import OnProgress, no_progress
from prosg.utils.replaceable import FolderKind

__all__ = ["EXPORT_FOLDER", "MANIFEST", "export", "split_rows", "write_parquet"]

MANIFEST = "manifest.json"
EXPORT_FOLDER = FolderKind(
    "a build's data set",
    MANIFEST,
    ("rows", "sha256"),
    ("README.md", *(f"{name}.{ending}" for name in SPLITS for ending in ("jsonl", "parquet"))),
)


def split_rows(rows: Sequence[Row], above: float, *, on_progress: OnProgress = no_progress) -> list[Row]:
    """Returns the rows with `cluster` (a row's id) and `split` in `extra`; near-duplicate prompts share both."""
    places = splits_by_cluster([row.prompt for row in rows], above, "musi", on_progress=on_progress)
    return [
        replace(row, extra={**row.extra, "cluster": rows[first].id, "split": split})
        for row, (first, split) in zip(rows, places, strict=True)
    ]


def write_parquet(file: Path, rows: Sequence[Row]) -> None:
    """Writes rows with the columns of the jsonl. A check becomes a JSON text, since checks have different fields."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra("Parquet", "data", error) from None

    text, integer = pa.string(), pa.int64()
    stage = pa.struct([("instruction", text), ("check", text), ("start", integer), ("marker", text)])
    columns = [("id", text), ("kind", text), ("prompt", text), ("answer", text), ("stages", pa.list_(stage))]
    columns += [("distance_words", integer), ("leaks", pa.bool_()), ("language", text), ("cluster", text)]
    columns += [("sub_instructions", pa.list_(text))]
    table = []
    for row in rows:
        data = row_to_dict(row) | {"leaks": row.leaks}
        data["stages"] = [s | {"check": json.dumps(s["check"], ensure_ascii=False)} for s in data["stages"]]
        table.append({name: data.get(name) for name, _ in columns})
    pq.write_table(pa.Table.from_pylist(table, schema=pa.schema(columns)), file)


def export(
    config: BuildConfig,
    rows: Sequence[Row],
    costs: Mapping[str, Mapping[str, int | float]],
    rejected: Counter[str],
    *,
    on_progress: OnProgress = no_progress,
) -> dict[str, int]:
    """Applies the review's decisions, and writes the data set to the build's folder `export`, replacing an earlier one.

    Args:
        config: The build's options.
        rows: The verified rows.
        costs: By stage the number of recorded replies and their tokens_in, tokens_out and money.
        rejected: Number of dropped instructions and answers by reason.
        on_progress: Called with numbers of rows.

    Returns:
        The number of rows by split.
    """
    decisions = read_decisions(config.folder / BUILD_DECISIONS)
    reviewed = apply_decisions(rows, decisions)
    if not reviewed:
        raise ValueError(f"{config.folder}: no row passed; rejected.jsonl and filter.jsonl say why")
    placed = split_rows(reviewed, config.export.cluster_above, on_progress=on_progress)
    sizes = {}
    with written_whole(config.folder / "export", overwrite=True, kind=EXPORT_FOLDER) as folder:
        folder.mkdir()
        for name in SPLITS:
            chosen = [row for row in placed if row.extra["split"] == name]
            if chosen:
                sizes[name] = write_rows(folder / f"{name}.jsonl", chosen)
                write_parquet(folder / f"{name}.parquet", chosen)
        hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
        actions = Counter(decision.action for decision in decisions.values())
        card = _card(config, placed, sizes, costs, rejected, actions, hashes)
        (folder / "README.md").write_text(card, "utf-8")
        content = {"rows": sizes, "sha256": hashes, "decisions": f"../{BUILD_DECISIONS}", "rejected": dict(rejected)}
        (folder / MANIFEST).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return sizes


def _card(
    config: BuildConfig,
    rows: Sequence[Row],
    sizes: Mapping[str, int],
    costs: Mapping[str, Mapping[str, int | float]],
    rejected: Counter[str],
    reviewed: Counter[str],
    hashes: Mapping[str, str],
) -> str:
    kinds: dict[str, Counter[str]] = {}
    for row in rows:
        kinds.setdefault(row.kind, Counter())[str(row.extra["split"])] += 1
    languages = sorted({str(row.extra.get("language", "en")) for row in rows})
    per_cluster = Counter(row.extra["cluster"] for row in rows)
    largest = max(per_cluster.values())
    front = [
        "---",
        f"pretty_name: {json.dumps(config.export.name, ensure_ascii=False)}",
        f"license: {json.dumps(config.export.licence or 'unknown')}",
        f"language: [{', '.join(languages)}]",
        "task_categories: [text-generation]",
        "configs:",
        "  - config_name: default",
        "    data_files:",
        *(f"      - {{split: {name}, path: {name}.parquet}}" for name in sizes),
        "---",
    ]
    parts = [
        "\n".join(front),
        f"# {config.export.name}",
        "Multi-stage instructions with answers, made with `prosg data build`: drafted by category, filtered, answered,"
        " and verified per sub-instruction.",
        "## Rows",
        _table(["kind", *sizes], [[kind, *(str(kinds[kind][name]) for name in sizes)] for kind in sorted(kinds)])
        + f"\n\n{len(rows):,} rows: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        + f". Prompts that are alike (ROUGE-L F1 above {config.export.cluster_above}) are in one split:"
        f" {len(per_cluster):,} clusters, the largest of {largest:,} rows.",
        "## Lengths\n\n```\n" + statistics_text(count_rows(rows)) + "\n```",
        "## What was left out\n\n" + _table(["reason", "number"], [[k, f"{n:,}"] for k, n in sorted(rejected.items())]),
        "Looked through by hand: " + (", ".join(f"{n:,} {k}" for k, n in sorted(reviewed.items())) or "none") + ".",
        "## Models and costs\n\n" + _models(config) + "\n\n" + _costs(costs),
        "## Licences\n\n" + _licences(config),
        "## Fields\n\nid, kind (category), prompt, answer, stages (instruction, check, start: character in the answer,"
        " marker: text that opens it there), distance_words (before the last stage), leaks, sub_instructions, language,"
        " cluster. In Parquet a check is a JSON text.",
        "## Files\n\n" + _table(["file", "sha256"], [[name, f"`{digest}`"] for name, digest in hashes.items()]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _endpoint(endpoint: EndpointConfig) -> str:
    return f"{endpoint.model} (terms of its output: {endpoint.licence or 'not stated'})"


def _models(config: BuildConfig) -> str:
    judge = _endpoint(config.judge) if config.verify.judge else "none, programmatic checks only"
    return f"Instructions and answers: {_endpoint(config.endpoint)}. Judge: {judge}. Seed {config.seed}."


def _costs(costs: Mapping[str, Mapping[str, int | float]]) -> str:
    lines = [
        [stage, f"{cost['replies']:,}", f"{cost['tokens_in']:,}", f"{cost['tokens_out']:,}", f"{cost['money']:,.4f}"]
        for stage, cost in costs.items()
    ]
    table = _table(["stage", "replies", "tokens read", "tokens written", "money"], lines)
    return table + "\n\nOf the replies that were recorded; attempts that failed are in the build's ledger."


def _licences(config: BuildConfig) -> str:
    lines = [f"- This data set: {config.export.licence or 'not stated'}"]
    for source in config.export.sources:
        where = f", {source['url']}" if source.get("url") else ""
        lines.append(f"- {source['name']}: {source.get('licence') or 'not stated'}{where}")
    lines.append("- The examples that requests show, unless a file of one's own gave them: Apache-2.0")
    return "\n".join(lines)
