"""Chat templates go with models: from their files, through training, into what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prosg.checkpoints.backbone import convert
from prosg.checkpoints.load import load_model
from prosg.checkpoints.model_files import model_files
from prosg.checkpoints.templates import read_template, write_template
from prosg.data.jinja_template import JinjaTemplate
from prosg.data.templates import NONE, TEMPLATES, OwnTemplate, Turn
from prosg.utils.io import CheckpointError
from support.chat_models import CHATML, chat_model

MESSAGES = [{"role": "user", "content": "Tom saw a cat."}]
WRITTEN = "<s><|im_start|>user\nTom saw a cat.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("form", ["text", "list", "file"])
def test_a_template_is_found_in_the_models_files(form: str, tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    folder = chat_model(tmp_path / "model", named if form == "list" else CHATML, file=form == "file")
    model = load_model(folder)
    assert isinstance(model.template, JinjaTemplate) and model.own_template.trained is None
    assert model.template.place.startswith(str(folder)) and model.template.tokens["bos_token"] == "<s>"
    (read,) = model.prepare([MESSAGES])
    assert model.tokenizer is not None and model.tokenizer.decode(read.ids) == WRITTEN
    if form == "file":
        assert folder / "chat_template.jinja" in model_files(folder)["backbone"]
    for name in ("copy", "copy.pth"):
        convert(folder, tmp_path / "to" / name)
    copied = load_model(tmp_path / "to" / "copy")
    assert copied.prepare([MESSAGES]) == [read] and copied.special == model.special
    assert load_model(tmp_path / "to" / "copy.pth").template == NONE


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_a_template_of_the_package_is_known_again(name: str, tmp_path: Path) -> None:
    write_template(TEMPLATES[name], tmp_path)
    assert read_template(tmp_path, None) == OwnTemplate(trained=TEMPLATES[name])


def test_what_is_no_template_is_refused_and_a_broken_one_where_it_is_used(tmp_path: Path) -> None:
    folder = chat_model(tmp_path / "model", 3)
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: chat_template is 3; it must be text"):
        load_model(folder)
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja"):
        load_model(folder)
    (folder / "chat_template.jinja").write_text("a\n{{ b")
    model = load_model(folder)
    model.encode("Tom")
    with pytest.raises(ValueError, match=r"model/chat_template.jinja: chat template, line 2: "):
        model.encode(MESSAGES)


def test_world_is_for_worlds_tokenizer_and_none_for_others(tmp_path: Path) -> None:
    folder = chat_model(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text(json.dumps({}))
    model = load_model(folder)
    assert model.template == NONE and model.own_template.reason(model.tokenizer) == ""
    assert model.own_template.choose("world", model.tokenizer) == TEMPLATES["world"]


def test_of_several_templates_the_default_one_is_taken_or_missed(tmp_path: Path) -> None:
    for several in ({"tool_use": "x", "default": CHATML}, [{"name": "default", "template": CHATML}]):
        known = load_model(chat_model(tmp_path / "model", several)).own_template.known
        assert known is not None and known.jinja() == CHATML
    for several in ({"rag": "x"}, [{"name": "rag", "template": "x"}], [{"name": ["rag"]}]):
        with pytest.raises(CheckpointError, match=r"chat_template has .*rag.*, none called default; write .*jinja"):
            load_model(chat_model(tmp_path / "model", several))


def test_a_template_without_an_end_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    endless = "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"
    known = load_model(chat_model(tmp_path / "model", endless)).own_template.known
    assert known is not None
    with pytest.raises(ValueError, match=r"tokenizer_config.json: chat template: maximum recursion"):
        known.frame([Turn("user", "hi")])
