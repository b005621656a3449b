"""`prosg serve`: answer requests over HTTP, as OpenAI's servers do, each prompt with a memory of its own."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from prosg.cli.common import add_memory, add_model, add_state, add_template, load_from
from prosg.cli.parser import Command, Parser, add_dataclass, path_text
from prosg.utils.extras import missing_extra

if TYPE_CHECKING:
    from prosg.serving.api.options import ApiOptions

__all__ = ["COMMAND"]

MEBIBYTE = 1 << 20


def _parser() -> Parser:
    from prosg.serving.api.options import ApiOptions

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
    return parser


def _run(options: Namespace) -> int:
    from prosg.serving.api.options import ApiOptions
    from prosg.utils.options import build, iter_options

    names = [option.name for _, group in iter_options(ApiOptions) for option in group]
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    return _serve(options, build(ApiOptions, given))


def _serve(options: Namespace, api: ApiOptions) -> int:
    try:
        from prosg.serving.api.server import listen, serve
        from prosg.serving.api.service import open_service
    except ImportError as error:
        raise missing_extra("serving", "serve", error) from None
    from prosg.checkpoints.fingerprints import model_fingerprint
    from prosg.serving.engine import Engine

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    listener = listen(api.host, api.port)
    with listener:
        model = load_from(options)
        fingerprint = model_fingerprint(model)
        engine = Engine(
            model,
            fingerprint=fingerprint,
            max_rows=options.rows,
            prefill_chunk=options.prefill_chunk,
            cache_bytes=options.cache * MEBIBYTE,
            cache_folder=options.cache_folder,
            queue=options.queue,
        )
        name = api.name or (Path(options.model).stem.replace(":", "-") or "model")
        with open_service(
            model,
            engine,
            api,
            name=name,
            template=options.template,
            memory=options.memory,
            tau=options.tau,
            fingerprint=fingerprint,
        ) as service:
            engine.start()
            try:
                host, port = listener.getsockname()[:2]
                address = f"[{host}]" if ":" in host else host
                print(f"{service.name}, memory {service.memory}: http://{address}:{port}/    Ctrl-C ends", flush=True)
                serve(service, listener)
            finally:
                engine.stop(0.0)
    return 0


COMMAND = Command("serve a model over HTTP, each prompt with a memory of its own", _parser, _run)
