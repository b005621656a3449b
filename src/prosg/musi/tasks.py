"""Single tasks read from instruction data in the layouts of other projects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.utils.errors import unreadable
from prosg.utils.extras import missing_extra
from prosg.utils.io import iter_jsonl
from prosg.utils.outside import parse_json, plain_reason

__all__ = ["LAYOUTS", "Task", "TaskFile", "read_tasks"]

Record = Mapping[str, Any]


class Task(NamedTuple):
    """One instruction with its answer.

    Attributes:
        id: The record's id if it has one, else FILE:LINE.
        instruction: What is to be done.
        input: The text that it is to be done to; "" if there is none.
        output: The answer.
        closed: Whether the answer is one of few, and can be compared exactly.
    """

    id: str
    instruction: str
    input: str
    output: str
    closed: bool

    @property
    def text(self) -> str:
        """Instruction and input as one prompt."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction


class TaskFile(NamedTuple):
    """A file that was read: number of records by layout, of tasks, and of records without a task by reason."""

    file: str
    layouts: Counter[str]
    tasks: int
    left_out: Counter[str]


class _RawTask(NamedTuple):
    """The fields of a task, not checked yet."""

    instruction: Any
    input: Any
    output: Any


def _self_instruct(record: Record) -> list[_RawTask]:
    instances = record["instances"]
    if not isinstance(instances, list) or not all(isinstance(item, Mapping) for item in instances):
        raise ValueError("instances is no list of objects")
    return [_RawTask(record["instruction"], item.get("input", ""), item.get("output", "")) for item in instances]


def _alpaca(record: Record) -> list[_RawTask]:
    return [_RawTask(record["instruction"], record.get("input", ""), record["output"])]


def _dolly(record: Record) -> list[_RawTask]:
    return [_RawTask(record["instruction"], record.get("context", ""), record["response"])]


def _turns(turns: object, who: str, what: str, users: Sequence[str], answers: Sequence[str]) -> list[_RawTask]:
    """The first exchange; later ones depend on it and are no tasks by themselves."""
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise ValueError("the turns are no list of objects")
    spoken = [turn for turn in turns if turn.get(who) in (*users, *answers)]
    if len(spoken) < 2 or spoken[0].get(who) not in users or spoken[1].get(who) not in answers:
        return []
    return [_RawTask(_content(spoken[0].get(what)), "", _content(spoken[1].get(what)))]


def _content(content: object) -> object:
    """A message's text, which some layouts divide into parts."""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return "\n".join(str(part.get("text") or "") for part in content if part.get("type", "text") == "text")
    return content


def _sharegpt(record: Record) -> list[_RawTask]:
    return _turns(record["conversations"], "from", "value", ("human", "user"), ("gpt", "assistant", "chatgpt", "bing"))


def _messages(record: Record) -> list[_RawTask]:
    return _turns(record["messages"], "role", "content", ("user",), ("assistant",))


def _rows(record: Record) -> list[_RawTask]:
    return [_RawTask(record["prompt"], "", record["answer"])]


class TaskLayout(NamedTuple):
    """The fields that identify a record of a layout, and the function that reads it."""

    fields: tuple[str, ...]
    read: Callable[[Record], list[_RawTask]]


LAYOUTS: dict[str, TaskLayout] = {
    "self-instruct": TaskLayout(("instruction", "instances"), _self_instruct),
    "alpaca": TaskLayout(("instruction", "output"), _alpaca),
    "dolly": TaskLayout(("instruction", "response"), _dolly),
    "sharegpt": TaskLayout(("conversations",), _sharegpt),
    "messages": TaskLayout(("messages",), _messages),
    "prosg": TaskLayout(("prompt", "answer"), _rows),
}


def _records(file: str) -> Iterator[tuple[str, Any]]:
    """The place of each record, for errors, and the record."""
    path = Path(file)
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    try:
        with path.open("rb") as opened:
            start = opened.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise ValueError(unreadable(file, error)) from None
    if not start.startswith(b"["):
        yield from ((f"{file}:{number}", data) for number, data in iter_jsonl(file))
        return
    content = parse_json(path.read_bytes(), file)
    yield from ((f"{file}: record {number}", data) for number, data in enumerate(content, 1))


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_extra(f"{path}: Parquet", "data", error) from None
    try:
        records = pq.read_table(path).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:  # bytes that are no text among them
        raise ValueError(f"{path}: cannot be read: {plain_reason(error)}") from None
    yield from ((f"{path}: record {number}", data) for number, data in enumerate(records, 1))


def _layout(record: object) -> str:
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is an object, not {type(record).__name__}")
    for name, layout in LAYOUTS.items():
        if all(field in record for field in layout.fields):
            return name
    known = "; ".join(f"{name} ({', '.join(layout.fields)})" for name, layout in LAYOUTS.items())
    raise ValueError(f"a layout that is not known, with the fields {', '.join(map(str, record))}; known: {known}")


def _task(name: str, raw: _RawTask, closed: bool) -> Task:
    texts = []
    for field, value in raw._asdict().items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"the {field} is a {type(value).__name__}, not text")
        texts.append((value or "").replace("\r\n", "\n").strip())
    instruction, task_input, output = texts
    if task_input.lower() in ("<noinput>", "no input"):  # Alpaca's notation for none
        task_input = ""
    return Task(name, instruction, task_input, output, closed)


def read_tasks(files: Sequence[str], longest: int = 0) -> tuple[list[Task], list[TaskFile]]:
    """Reads all tasks of some jsonl, JSON or Parquet files, and summarizes each file.

    longest: words of instruction and answer above which a task is left out; 0 for no limit. Raises ValueError for a
    record of no known layout, naming file and line, and if there is no task at all.
    """
    tasks: list[Task] = []
    task_files = []
    names = Counter(Path(file).name for file in files)
    ids: set[str] = set()
    for file in files:
        layouts: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        before = len(tasks)
        short_name = file if names[Path(file).name] > 1 else Path(file).name
        for number, (place, record) in enumerate(_records(file), 1):
            try:
                layout = _layout(record)
                raw_tasks = LAYOUTS[layout].read(record)
                layouts[layout] += 1
                closed = record.get("is_classification") is True
                record_id = record.get("id")
                unique = isinstance(record_id, str) and record_id and record_id not in ids
                name = record_id if unique else f"{short_name}:{number}"
                for index, raw in enumerate(raw_tasks, 1):
                    task = _task(f"{name}.{index}" if len(raw_tasks) > 1 else name, raw, closed)
                    if not task.instruction or not task.output:
                        left_out["no answer" if task.instruction else "no instruction"] += 1
                    elif longest and len(f"{task.text} {task.output}".split()) > longest:
                        left_out[f"more than {longest} words"] += 1
                    else:
                        tasks.append(task)
                if isinstance(record_id, str):
                    ids.add(record_id)
                if not raw_tasks:
                    left_out["no exchange of a user and an assistant"] += 1
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
        task_files.append(TaskFile(file, layouts, len(tasks) - before, left_out))
    if not tasks:
        left_out = sum((task_file.left_out for task_file in task_files), Counter[str]())
        why = "".join(f"; left out: {number} with {reason}" for reason, number in left_out.items())
        raise ValueError(f"{', '.join(files)}: no tasks; a task has an instruction and an answer{why}")
    return tasks, task_files
