"""The counters of several replicas as those of one server, told apart by a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["merged"]


class _Families:
    """What `generate_latest` reads, as it reads a registry."""

    def __init__(self, families: Mapping[str, Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()


def merged(texts: Mapping[str, str]) -> bytes:
    """Joins metrics in Prometheus' format.

    Args:
        texts: By the replica's name, which becomes the label `replica`; without a label where it is "".
    """
    families: dict[str, Metric] = {}
    for replica, text in texts.items():
        for family in text_string_to_metric_families(text):
            joined = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = sample.labels | ({"replica": replica} if replica else {})
                joined.samples.append(sample._replace(labels=labels))
    return bytes(generate_latest(_Families(families)))
