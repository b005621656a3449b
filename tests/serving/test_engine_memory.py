"""What stays of requests that have ended: nothing that waits for the garbage collector, and nothing that grows."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from torch import Tensor

from prosg.serving import Engine, Finished, Piece, Request
from support.serving import finish, request, serving_model


class Client:
    """A listener that has its request's handle, as those of the server have."""

    def __init__(self, engine: Engine, wanted: Request) -> None:
        self.handle = engine.submit(wanted, self.listen)

    def listen(self, event: Piece | Finished) -> None:
        pass


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_requests_that_ended_are_freed_at_once(no_collections: None) -> None:
    """Those that were answered, and those whose clients went away from the queue, the reading and the answer."""
    model = serving_model()
    engine = Engine(model, max_rows=2, prefill_chunk=4, cache_bytes=0)
    clients = [Client(engine, request([1, 2, 3] * (1 + number), memory="both")) for number in range(6)]
    engine.step()
    for number in (0, 1, 5):
        clients[number].handle.cancel()
    finish(engine)
    done = engine.statistics()
    assert done.finished["cancelled"] == 3 and sum(done.finished.values()) == 6
    left = [weakref.ref(client) for client in clients]
    clients.clear()
    assert [client() for client in left] == [None] * 6


def test_rows_that_take_turns_keep_as_many_tensors_as_at_first() -> None:
    """The slots are hardly ever empty, so whatever a row left in them would stay."""
    engine = Engine(serving_model(), max_rows=3, cache_bytes=0)

    def tensors_after(requests: int) -> int:
        for number in range(requests):
            engine.submit(request([1, 2, 3], memory="both", max_tokens=6 + number % 3), lambda _: None)
            while engine.statistics().waiting:
                engine.step()
        assert engine.statistics().rows
        gc.collect()
        return sum(type(thing) is Tensor for thing in gc.get_objects())

    first = tensors_after(6)
    assert tensors_after(15) <= first + 15  # each row's graph would be dozens
