"""Single tasks out of other people's instruction data, whatever layout it has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.utils.io import iter_jsonl

__all__ = ["LAYOUTS", "Source", "Task", "read_tasks"]

Record = Mapping[str, Any]


class Task(NamedTuple):
    """One instruction with its answer.

    id: the record's own where it has one, else FILE:LINE. closed: the answer is one of few, to be compared exactly.
    """

    id: str
    instruction: str
    input: str
    output: str
    closed: bool

    @property
    def text(self) -> str:
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction


class Source(NamedTuple):
    """A file that was read: layouts with the number of records, tasks found, records left out by reason."""

    file: str
    layouts: Counter[str]
    tasks: int
    left_out: Counter[str]


class _Pair(NamedTuple):
    """What a layout gives."""

    instruction: Any
    input: Any
    output: Any


def _self_instruct(record: Record) -> list[_Pair]:
    instances = record["instances"]
    if not isinstance(instances, list) or not all(isinstance(one, Mapping) for one in instances):
        raise ValueError("instances is no list of objects")
    return [_Pair(record["instruction"], one.get("input", ""), one.get("output", "")) for one in instances]


def _alpaca(record: Record) -> list[_Pair]:
    return [_Pair(record["instruction"], record.get("input", ""), record["output"])]


def _dolly(record: Record) -> list[_Pair]:
    return [_Pair(record["instruction"], record.get("context", ""), record["response"])]


def _turns(turns: object, who: str, what: str, users: Sequence[str], answers: Sequence[str]) -> list[_Pair]:
    """The first exchange: what comes later depends on it, so it is no task of its own."""
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise ValueError("the turns are no list of objects")
    spoken = [turn for turn in turns if turn.get(who) in (*users, *answers)]
    if len(spoken) < 2 or spoken[0].get(who) not in users or spoken[1].get(who) not in answers:
        return []
    return [_Pair(_content(spoken[0].get(what)), "", _content(spoken[1].get(what)))]


def _content(content: object) -> object:
    """A message's text; some layouts cut it into parts."""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return "\n".join(str(part.get("text", "")) for part in content if part.get("type", "text") == "text")
    return content


def _sharegpt(record: Record) -> list[_Pair]:
    return _turns(record["conversations"], "from", "value", ("human", "user"), ("gpt", "assistant", "chatgpt", "bing"))


def _messages(record: Record) -> list[_Pair]:
    return _turns(record["messages"], "role", "content", ("user",), ("assistant",))


def _rows(record: Record) -> list[_Pair]:
    return [_Pair(record["prompt"], "", record["answer"])]


class Layout(NamedTuple):
    """Fields that a record of the layout has, and how it is read."""

    fields: tuple[str, ...]
    read: Callable[[Record], list[_Pair]]


LAYOUTS: dict[str, Layout] = {
    "self-instruct": Layout(("instruction", "instances"), _self_instruct),
    "alpaca": Layout(("instruction", "output"), _alpaca),
    "dolly": Layout(("instruction", "response"), _dolly),
    "sharegpt": Layout(("conversations",), _sharegpt),
    "messages": Layout(("messages",), _messages),
    "prosg": Layout(("prompt", "answer"), _rows),
}


def _records(file: str) -> Iterator[tuple[str, Any]]:
    """Where a record stands, for errors, and the record."""
    path = Path(file)
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        with path.open("rb") as opened:
            start = opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
    if not start.startswith(b"["):
        yield from ((f"{file}:{number}", data) for number, data in iter_jsonl(file))
        return
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    yield from ((f"{file}: record {number}", data) for number, data in enumerate(content, 1))


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{path}: Parquet needs the package pyarrow: pip install 'prosg[data]'") from None
    try:
        records = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    yield from ((f"{path}: record {number}", data) for number, data in enumerate(records, 1))


def _layout(record: object) -> str:
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is an object, not {type(record).__name__}")
    for name, layout in LAYOUTS.items():
        if all(field in record for field in layout.fields):
            return name
    known = "; ".join(f"{name} ({', '.join(layout.fields)})" for name, layout in LAYOUTS.items())
    raise ValueError(f"a layout that is not known, with the fields {', '.join(map(str, record))}; known: {known}")


def _task(name: str, pair: _Pair, closed: bool) -> Task:
    texts = []
    for field, value in pair._asdict().items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"the {field} is a {type(value).__name__}, not text")
        texts.append((value or "").replace("\r\n", "\n").strip())
    instruction, given, output = texts
    # alpaca's way of saying that there is none
    return Task(name, instruction, "" if given.lower() in ("<noinput>", "no input") else given, output, closed)


def read_tasks(files: Sequence[str], longest: int = 0) -> tuple[list[Task], list[Source]]:
    """All tasks of the files, and what was read. longest: leave out tasks of more words, 0 for none.

    Raises ValueError naming file and line for a record of no known layout, and where no task is found at all.
    """
    tasks: list[Task] = []
    sources = []
    names = Counter(Path(file).name for file in files)
    seen: set[str] = set()
    for file in files:
        layouts: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        before = len(tasks)
        short = file if names[Path(file).name] > 1 else Path(file).name
        for number, (where, record) in enumerate(_records(file), 1):
            try:
                layout = _layout(record)
                pairs = LAYOUTS[layout].read(record)
                layouts[layout] += 1
                closed = record.get("is_classification") is True
                for place, pair in enumerate(pairs):
                    own = record.get("id")
                    name = own if isinstance(own, str) and own and own not in seen else f"{short}:{number}"
                    name += f".{place + 1}" if len(pairs) > 1 else ""
                    task = _task(name, pair, closed)
                    if not task.instruction or not task.output:
                        left_out["no answer" if task.instruction else "no instruction"] += 1
                    elif longest and len(f"{task.text} {task.output}".split()) > longest:
                        left_out[f"more than {longest} words"] += 1
                    else:
                        tasks.append(task)
                if isinstance(record.get("id"), str):
                    seen.add(record["id"])
                if not pairs:
                    left_out["no exchange of a user and an assistant"] += 1
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        sources.append(Source(file, layouts, len(tasks) - before, left_out))
    if not tasks:
        raise ValueError(f"{', '.join(files)}: no tasks; a task has an instruction and an answer")
    return tasks, sources
