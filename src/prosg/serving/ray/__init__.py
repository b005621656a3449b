"""Several replicas of the server, under Ray Serve: the same interface, stored prompts in one place.

    client -> Serve's proxy -> ingress: `api.edge`, then `relay` -> a replica: `api.app` without its edge

A request that names a stored prompt goes, where it can, to a replica that has it in memory; one whose replica dies
before anything was sent is sent to another. Nothing but `application` and `running` imports Ray.
"""
