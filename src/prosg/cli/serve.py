"""`prosg serve`: answer requests over HTTP, as OpenAI's servers do, each prompt with a memory of its own."""

from __future__ import annotations

import dataclasses
import logging
import os
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prosg.cli.arguments import add_memory, add_model, add_state, add_template
from prosg.cli.common import load_from
from prosg.cli.parser import Command, Parser, add_dataclass, path_text
from prosg.utils.extras import missing_extra
from prosg.utils.options import check_at_least
from prosg.utils.paths import user_path

if TYPE_CHECKING:
    from prosg.serving.api.options import ApiOptions
    from prosg.serving.api.service import Plan
    from prosg.serving.ray.options import ReplicaOptions

__all__ = ["COMMAND"]

BACKLOG = 2048
"""Connections that wait to be accepted, as uvicorn has it."""
MEBIBYTE = 1 << 20
T = TypeVar("T")


def _parser() -> Parser:
    from prosg.serving.api.options import ApiOptions
    from prosg.serving.ray.options import ReplicaOptions

    parser = Parser(
        "Serve a model over HTTP: OpenAI's chat and completions, stored prompts, metrics, and a playground at /. To "
        "this machine only, unless --host says otherwise, which needs --keys."
    )
    add_model(parser)
    add_template(parser, "")
    add_state(parser)
    add_memory(parser)
    parser.add_argument("--rows", type=int, default=32, help="answers that are written at once")
    parser.add_argument("--queue", type=int, default=256, help="answers that may wait; more are refused")
    parser.add_argument(
        "--prefill-chunk", type=int, default=256, help="tokens of a prompt between two steps of writing"
    )
    parser.add_argument("--cache", type=int, default=512, help="MiB of memory for what prompts left")
    parser.add_argument("--cache-folder", type=path_text, help="where that is kept, too, when memory is full")
    add_dataclass(parser, ApiOptions, {})
    add_dataclass(parser, ReplicaOptions, {})
    return parser


def _run(options: Namespace) -> int:
    from prosg.serving.api.options import ApiOptions
    from prosg.serving.ray.options import ReplicaOptions

    check_at_least(options, ["rows", "queue", "prefill_chunk"], 1)
    check_at_least(options, ["cache"], 0)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    api, replicas = _given(ApiOptions, options), _given(ReplicaOptions, options)
    return _serve_replicas(options, api, replicas) if replicas.replicas else _serve(options, api)


def _given(kind: type[T], options: Namespace) -> T:
    """A dataclass of the options that were given."""
    from prosg.utils.options import build, iter_options

    names = [option.name for _, group in iter_options(kind) for option in group]
    return build(kind, {name: getattr(options, name) for name in names if hasattr(options, name)})


def _plan(options: Namespace, api: ApiOptions) -> Plan:
    """What a server is made of."""
    from prosg.serving.api.service import Plan

    engine = {
        "max_rows": options.rows,
        "prefill_chunk": options.prefill_chunk,
        "cache_bytes": options.cache * MEBIBYTE,
        "cache_folder": options.cache_folder,
        "queue": options.queue,
    }
    name = api.name or (Path(options.model).stem.replace(":", "-") or "model")
    return Plan(partial(load_from, options), engine, api, name, options.template, options.memory, options.tau)


def _serve(options: Namespace, api: ApiOptions) -> int:
    try:
        from prosg.serving.api.server import listen, serve
        from prosg.serving.api.service import run_service
    except ImportError as error:
        raise missing_extra("serving", "serve", error) from None

    with listen(api.host, api.port) as listener, run_service(_plan(options, api)) as service:
        host, port = listener.getsockname()[:2]
        listener.listen(BACKLOG)  # whoever reads the address may connect at once
        print(f"{service.name}, memory {service.memory}: {_address(host, port)}    Ctrl-C ends", flush=True)
        serve(service, listener)
    return 0


def _serve_replicas(options: Namespace, api: ApiOptions, replicas: ReplicaOptions) -> int:
    if not api.prompts:
        raise ValueError("--replicas needs --prompts: a folder or a URL that all of them see, for stored prompts")
    if api.prompts.startswith("memory:"):
        raise ValueError(f"--prompts {api.prompts} is one process's own; --replicas needs a place that all of them see")
    if options.cache_folder:
        raise ValueError("--cache-folder is one server's own; leave it out with --replicas")
    try:
        from prosg.serving.ray.running import serve_replicas
    except ImportError as error:
        raise missing_extra("serving with --replicas", "ray", error) from None
    from prosg.serving.api.keys import open_keys
    from prosg.serving.api.storage import is_url

    open_keys(api)  # what is wrong with them is better said before anything starts

    prompts = api.prompts if is_url(api.prompts) else os.path.abspath(user_path(api.prompts))
    keys = os.path.abspath(user_path(api.keys)) if api.keys else ""
    plan = _plan(options, dataclasses.replace(api, prompts=prompts, keys=keys))

    def say(host: str, port: int) -> None:
        print(f"{plan.name}, {replicas.replicas} replicas: {_address(host, port)}    Ctrl-C ends", flush=True)

    serve_replicas(plan, replicas, say)
    return 0


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


COMMAND = Command("serve a model over HTTP, each prompt with a memory of its own", _parser, _run)
