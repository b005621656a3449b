"""`prosg data review`: rows are kept, dropped or edited one by one in the terminal.

Each decision is appended to a file beside the rows (NAME.review.jsonl) at once; the last one about a row counts, and an
undo cancels the last one of all. The rows' file itself is not changed: decisions apply when a build exports, or with
--apply.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from prosg.data.checks import check_stages, find_stages
from prosg.data.row import Row, read_rows, row_from_dict, row_to_dict, write_rows
from prosg.musi.stages import words_before
from prosg.utils.inside import inside
from prosg.utils.outside import parse_json, terminal_text
from prosg.utils.store import Log, read_log

__all__ = ["BUILD_DECISIONS", "Decision", "apply_decisions", "decisions_file", "edit_texts", "read_decisions", "review"]

ACTIONS = ("keep", "drop", "edit")
KEYS = {"k": "keep", "d": "drop", "e": "edit", "u": "undo", "s": "skip", "q": "quit"}
ENDING = ".review.jsonl"
BUILD_DECISIONS = f"verified{ENDING}"
"""The decisions about a build's rows, in the folder above its export."""
PROMPT_LINE, ANSWER_LINE = "=== prompt ===", "=== answer ==="


class Decision(NamedTuple):
    """A decision about a row: its action, and the edited row."""

    action: str
    row: Mapping[str, Any] | None


def decisions_file(file: Path) -> Path:
    """Returns the file of the decisions about some rows: NAME.review.jsonl, or what a data set's manifest names.

    Raises:
        ValueError: for a manifest that names anything but a file of decisions, in its own folder or, if that is the
            export of a build, in the build's.
    """
    manifest = file.parent / "manifest.json"
    if manifest.is_file():
        try:
            content = parse_json(manifest.read_bytes(), str(manifest))
        except ValueError:  # somebody else's
            content = None
        named = content.get("decisions") if isinstance(content, dict) else None
        if named == f"../{BUILD_DECISIONS}":
            exported = Path(os.path.abspath(file)).parent.name == "export"
            return Path(os.path.normpath(file.parent / named)) if exported else _beside(file)
        if named is not None:
            path = inside(file.parent, named, f"{manifest}: decisions")
            if not path.name.endswith(ENDING):
                raise ValueError(f"{manifest}: decisions is {named!r}; a file of decisions is called NAME{ENDING}")
            return path
    return _beside(file)


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.stem}{ENDING}")


def _current(records: Sequence[Mapping[str, Any]]) -> dict[str, Decision]:
    """The decisions that count by the row's id, in the order in which they were made."""
    made: list[tuple[str, Decision]] = []
    for record in records:
        if record["action"] == "undo":
            made.pop()
        else:
            made.append((record["id"], Decision(record["action"], record.get("row"))))
    current: dict[str, Decision] = {}
    for name, decision in made:
        current.pop(name, None)
        current[name] = decision
    return current


def read_decisions(path: Path) -> dict[str, Decision]:
    """Reads the decisions that count by row id; none if there is no file. Raises ValueError for a malformed line."""
    records = read_log(path)
    depth = 0
    for number, record in enumerate(records, 1):
        action = record.get("action")
        depth += -1 if action == "undo" else 1
        known = action == "undo" or (action in ACTIONS and isinstance(record.get("id"), str))
        if not known or depth < 0:
            raise ValueError(f"{path}:{number}: no decision; it has an id and an action: {', '.join(ACTIONS)} or undo")
        if action == "edit":
            try:
                row_from_dict(record.get("row"))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
    return _current(records)


def apply_decisions(rows: Sequence[Row], decisions: Mapping[str, Decision]) -> list[Row]:
    """Returns the rows that were not dropped, with their edits."""
    kept = []
    for row in rows:
        decision = decisions.get(row.id)
        if decision is None or decision.action == "keep":
            kept.append(row)
        elif decision.action == "edit":
            kept.append(row_from_dict(decision.row))
    return kept


def edit_texts(row: Row, prompt: str, answer: str) -> Row:
    """Returns the row with another prompt and answer; its stages are found again by their markers, or else removed."""
    if not row.stages:
        return replace(row, prompt=prompt, answer=answer)
    starts, position = [], 0
    for stage in row.stages:
        start = answer.find(stage.marker, position)
        if start < 0:
            return replace(row, prompt=prompt, answer=answer, stages=(), distance_words=0, leaks=True)
        starts.append(start)
        position = start + len(stage.marker)
    stages = tuple(replace(stage, start=start) for stage, start in zip(row.stages, starts, strict=True))
    return replace(row, prompt=prompt, answer=answer, stages=stages, distance_words=words_before(answer, starts[-1]))


def _edit(row: Row) -> Row | None:
    """Opens the row in $EDITOR; prints the reason and returns None if the result is no valid row."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"{PROMPT_LINE}\n{row.prompt}\n{ANSWER_LINE}\n{row.answer}\n")
    path = Path(file.name)
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        status = subprocess.run([*shlex.split(editor), file.name]).returncode
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        print(f"not edited: {error}")
        return None
    finally:
        path.unlink(missing_ok=True)
    head, middle, answer = text.partition(f"\n{ANSWER_LINE}\n")
    prompt = head.removeprefix(f"{PROMPT_LINE}\n")
    if status != 0 or not middle or prompt == head:
        print(f"not edited: the lines {PROMPT_LINE!r} and {ANSWER_LINE!r} have to stay, and the editor to end well")
        return None
    changed = edit_texts(row, prompt, answer.removesuffix("\n"))
    try:
        checked = row_from_dict(row_to_dict(changed))
    except ValueError as error:
        print(f"not edited: {error}")
        return None
    if row.stages and not checked.stages:
        print("the markers of the stages are gone: the row has no stages any more")
    failed = [number for number, right in enumerate(check_stages(checked, checked.answer), 1) if not right]
    if failed:
        print(f"not edited: the answer fails the check of stage {', '.join(map(str, failed))}")
        return None
    return checked


def _show(row: Row, place: int, total: int, decision: Decision | None) -> None:
    before = f", decided: {decision.action}" if decision else ""
    print(f"\n--- {place + 1} of {total}: {terminal_text(row.id)} ({terminal_text(row.kind) or 'no kind'}{before})")
    print(f"\n{terminal_text(row.prompt)}\n")
    results = check_stages(row, row.answer)
    pieces = find_stages(row, row.answer) if row.stages else [row.answer]
    for number, piece in enumerate(pieces):
        if row.stages:
            stage = row.stages[number]
            passed = "passes" if results[number] else "FAILS"
            print(f"  [{number + 1}] {terminal_text(stage.instruction)}  ({stage.check['type']}: {passed})")
        print(f"{terminal_text(piece or '(not found)')}\n")


def review(file: str, *, sample: int = 0, seed: int = 0, apply_to: str | None = None, overwrite: bool = False) -> int:
    """Shows rows and records the decisions about them that are typed in; or writes the rows as decided.

    Args:
        file: The jsonl file.
        sample: Number of rows to show, drawn at random; 0 for all.
        seed: Of the draw.
        apply_to: Where to write the rows as decided; then none are shown.
        overwrite: Replace that file.

    Returns:
        0, the exit status.
    """
    rows = read_rows(file)
    path = decisions_file(Path(file))
    decisions = read_decisions(path)
    if apply_to is not None:
        count = write_rows(apply_to, apply_decisions(rows, decisions), overwrite=overwrite)
        print(f"{apply_to}: {count} of {len(rows)} rows, {len(decisions)} decisions")
        return 0
    if sample < 0:
        raise ValueError(f"--sample is {sample}; it must be 0 (all rows) or more")
    if sample:
        rows = [rows[place] for place in sorted(Random(seed).sample(range(len(rows)), min(sample, len(rows))))]
    log = Log(path, alone=True)
    try:
        _decide(rows, log)
        return 0
    finally:
        log.close()
        counts = dict.fromkeys(ACTIONS, 0)
        for decision in _current(log.records).values():
            counts[decision.action] += 1
        print(f"\n{path}: " + ", ".join(f"{number} {action}" for action, number in counts.items()))


def _decide(rows: Sequence[Row], log: Log) -> None:
    """Shows the rows without a decision one by one and records what is typed, until all are decided or skipped."""
    by_id = {row.id: place for place, row in enumerate(rows)}
    skipped: set[str] = set()
    jump: int | None = None
    while True:
        decisions = _current(log.records)
        open_places = [p for p, row in enumerate(rows) if row.id not in decisions and row.id not in skipped]
        if jump is None and not open_places:
            print("\nall rows are decided or skipped")
            return
        place = open_places[0] if jump is None else jump
        jump = None
        row = rows[place]
        _show(row, place, len(rows), decisions.get(row.id))
        while True:
            print("[k]eep  [d]rop  [e]dit  [u]ndo  [s]kip  [q]uit > ", end="", flush=True)
            line = sys.stdin.readline()
            key = KEYS.get(line.strip().lower()[:1], "") if line else "quit"
            if key == "quit":
                return
            if key == "undo":
                if not decisions:
                    print("nothing to undo")
                    continue
                last = list(decisions)[-1]
                log.append({"action": "undo", "id": last})
                jump = by_id.get(last)
                break
            if key == "skip":
                skipped.add(row.id)
                break
            if key in ("keep", "drop"):
                log.append({"action": key, "id": row.id})
                break
            if key == "edit":
                changed = _edit(row)
                if changed is None:
                    continue
                log.append({"action": "edit", "id": row.id, "row": row_to_dict(changed)})
                break
            print("not a choice: k, d, e, u, s or q")
