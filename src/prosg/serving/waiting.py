"""What waits to be answered: a bounded queue in which owners take turns."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["EngineStopped", "QueueFull", "WaitingList"]

T = TypeVar("T")


class QueueFull(RuntimeError):  # noqa: N818 - as the standard library's queue.Full
    """As many requests wait as may.

    Attributes:
        seconds: After about how many seconds it is worth trying again.
    """

    def __init__(self, waiting: int, seconds: float) -> None:
        self.seconds = max(1.0, math.ceil(seconds))
        super().__init__(f"{waiting} requests wait, as many as may; try again in {self.seconds:.0f} s")


class EngineStopped(RuntimeError):  # noqa: N818 - it is no fault
    """The engine is being stopped, or has been, and takes no more requests."""

    def __init__(self) -> None:
        super().__init__("the engine is stopped and takes no more requests")


class WaitingList(Generic[T]):
    """A queue of each owner's. The next to be served is another owner's, as long as there is one."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[T]:
        return (item for queue in self._queues.values() for item in queue)

    def room(self, owner: str, most: int) -> bool:
        """Whether one more of an owner's may wait: its share of `most` among those who wait."""
        owners = len(self._queues.keys() | {owner})
        return len(self._queues.get(owner, ())) < max(1, most // owners)

    def push(self, owner: str, item: T) -> None:
        """Puts an item at the end of its owner's queue."""
        self._queues.setdefault(owner, deque()).append(item)

    def pop(self) -> T:
        """Takes the first item of the owner whose turn it is. KeyError for an empty list."""
        owner, queue = self._queues.popitem(last=False)
        item = queue.popleft()
        if queue:
            self._queues[owner] = queue  # behind the others
        return item

    def remove(self, item: T) -> None:
        """Takes an item out, wherever it waits."""
        for owner, queue in self._queues.items():
            if item in queue:
                queue.remove(item)
                if not queue:
                    del self._queues[owner]
                return
