"""Options of the replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prosg.utils.values import check_fields

__all__ = ["ReplicaOptions"]


@dataclass(frozen=True)
class ReplicaOptions:
    """Replicas of the server, under Ray Serve.

    Attributes:
        replicas: Copies of the model, each in a process of its own, on this machine or in the Ray cluster that
            RAY_ADDRESS names; 0 for one server without Ray.
        replica_cpus: CPUs that each of them takes; of less than 1 several share one.
        replica_gpus: GPUs that each of them takes.
    """

    replicas: int = 0
    replica_cpus: float = 1.0
    replica_gpus: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.replicas < 0:
            raise ValueError(f"replicas is {self.replicas}; it must be 1 or more, or 0 for one server without Ray")
        if not 0 < self.replica_cpus < math.inf:
            raise ValueError(f"replica_cpus is {self.replica_cpus:g}; it must be above 0")
        if not 0 <= self.replica_gpus < math.inf:
            raise ValueError(f"replica_gpus is {self.replica_gpus:g}; it must be 0 or more")
