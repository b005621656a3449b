"""`prosg convert`: between .pth files and Hugging Face folders of each layout; folders of GGUF files."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.arguments import add_overwrite, add_sliding_window
from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser("A .pth destination gets BlinkDL's layout, any other name a Hugging Face folder.")
    parser.add_argument("src", type=path_text, help="a .pth or .st file, a folder, or a .gguf file")
    parser.add_argument("dst", type=path_text, help="what to write")
    parser.add_argument(
        "--layout",
        default="",
        help="names of the tensors in a folder; for RWKV-7 fla (the default; also rwkv7-hf's), fla-stacked (its older "
        "versions'), or transformers (the RWKV organisation's port)",
    )
    add_sliding_window(parser)
    parser.add_argument("--dtype", help="fp32, bf16, fp16 or fp64; as it is by default, a .gguf file's as fp32")
    add_overwrite(parser)
    return parser


def _run(options: Namespace) -> int:
    from prosg.checkpoints.backbone import convert
    from prosg.utils.device import parse_dtype

    convert(
        options.src,
        options.dst,
        parse_dtype(options.dtype),
        layout=options.layout,
        sliding_window=options.sliding_window,
        overwrite=options.overwrite,
    )
    print(options.dst)
    return 0


COMMAND = Command("between .pth files and Hugging Face folders, and from GGUF files", _parser, _run)
