"""A model's own chat template, in and out of its folder.

chat_template.jinja      the template; a training writes here which one it used
tokenizer_config.json    chat_template, where there is no such file; the texts of bos_token, eos_token and the like

The templates of this package are written as Jinja, too, so that transformers writes conversations alike, and are known
by it when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prosg.data.jinja_template import JinjaTemplate
from prosg.data.templates import TEMPLATES, ChatTemplate, OwnTemplate
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.files import TOKENIZER_CONFIG
from prosg.utils.io import CheckpointError, read_json
from prosg.utils.outside import read_text
from prosg.utils.values import shown

__all__ = ["TEMPLATE_FILE", "read_template", "write_template"]

TEMPLATE_FILE = "chat_template.jinja"
MOST_BYTES = 1 << 20
"""Of a template; published ones have up to 20,000."""
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that a template may name, as transformers tells it."""


def read_template(folder: Path, tokenizer: Tokenizer | None, *, tokens_in: Path | None = None) -> OwnTemplate:
    """Returns the chat template of a model's or an adapter's folder; none for a file.

    Args:
        folder: The folder.
        tokenizer: Of the model, which knows the special tokens.
        tokens_in: Folder whose tokenizer_config.json has the special tokens' texts, where this one has none.

    Raises:
        CheckpointError: for a file that cannot be read. A template that is no Jinja is told when it is used.
    """
    settings = _settings(folder)
    file = folder / TEMPLATE_FILE
    try:
        source = read_text(file, MOST_BYTES) if file.is_file() else _named_template(settings, folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if source is None:
        return OwnTemplate()
    for template in TEMPLATES.values():
        if source == template.jinja():
            return OwnTemplate(trained=template)
    others = _settings(tokens_in) if tokens_in is not None else {}
    texts = {name: text for name in TOKENS if (text := _text(settings.get(name)) or _text(others.get(name)))}
    special, added = ((), ()) if tokenizer is None else (tokenizer.special_tokens, tokenizer.added_tokens)
    place = file if file.is_file() else folder / TOKENIZER_CONFIG
    return OwnTemplate(JinjaTemplate(source, texts, (*special, *texts.values()), str(place), added))


def write_template(template: ChatTemplate, folder: Path) -> None:
    """Writes a chat template into a model's or an adapter's folder, where `read_template` and transformers find it."""
    (folder / TEMPLATE_FILE).write_text(template.jinja(), "utf-8", newline="\n")
    if isinstance(template, JinjaTemplate) and template.tokens:
        file = folder / TOKENIZER_CONFIG
        file.write_text(json.dumps({**_settings(folder), **template.tokens}, indent=2) + "\n", "utf-8")


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / TOKENIZER_CONFIG
    return read_json(file) if file.is_file() else {}


def _named_template(settings: Mapping[str, Any], folder: Path) -> str | None:
    """The template in tokenizer_config.json: a text, or the one called default of several, in a list or an object."""
    value = settings.get("chat_template")
    if value in ([], {}):
        return None
    if isinstance(value, list):
        value = {str(one.get("name")): one.get("template") for one in value if isinstance(one, Mapping)}
    if isinstance(value, Mapping):
        if "default" not in value:
            raise ValueError(
                f"{folder / TOKENIZER_CONFIG}: chat_template has {shown([*value])}, none called default; write the one "
                f"that is meant to {folder / TEMPLATE_FILE}"
            )
        value = value["default"]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{folder / TOKENIZER_CONFIG}: chat_template is {shown(value)}; it must be text")
    return value


def _text(token: Any) -> str:
    """A token as tokenizer_config.json spells it: a text, or an object with one; "" for none."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""
