"""What a server keeps of requests: nothing but what its limits name."""

from __future__ import annotations

import gc
from collections import Counter

from prosg.model.prosg import ProSG
from prosg.serving.answering import Answering
from prosg.serving.api.limits import Admission
from prosg.serving.api.requests import Job
from prosg.serving.api.running import Running
from support.api import CODE, Served, served

KEPT_WHILE_ANSWERED = (Answering, Admission, Job, Running)


def send_all(server: Served, number: int) -> None:
    """A request of each kind, with contents that no other has."""
    body = {"model": "demo", "prompt": f"{CODE} {number}", "max_tokens": 3, "seed": number}
    server.post("/v1/completions", body | {"n": 2})
    assert server.client.post("/v1/completions", json=body | {"stream": True}).text.endswith("data: [DONE]\n\n")
    stored = server.post("/v1/prompts", {"text": body["prompt"]}, 201)["id"]
    server.post("/v1/completions", body | {"model": f"demo:{stored}", "prompt": ""})
    server.client.delete(f"/v1/prompts/{stored}")
    server.refused("/v1/completions", body | {"max_tokens": -number - 1})
    server.client.post("/v1/completions", content=bytes([255]) * number)
    server.get(f"/v1/prompts/prompt-{number:024x}", 404)
    server.get(f"/nothing/{number}", 404)
    server.client.request(f"METHOD{number}", "/v1/completions", headers={"X-Request-Id": f"id-{number}"})


def test_objects_and_labels_do_not_grow_with_requests(demo: ProSG) -> None:
    with served(demo) as server:
        server.client.get("/metrics")  # its own labels are there from now on
        counts = []
        for numbers in ((1,), (2, 3, 4)):
            for number in numbers:
                send_all(server, number)
            gc.collect()
            kept = Counter(type(thing) for thing in gc.get_objects() if isinstance(type(thing), type))
            labels = len(server.client.get("/metrics").text.splitlines())
            counts.append(({kind.__name__: kept[kind] for kind in KEPT_WHILE_ANSWERED}, labels))
        assert counts[0] == counts[1]
        assert not any(counts[0][0].values())
