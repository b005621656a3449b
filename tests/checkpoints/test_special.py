"""Special tokens come from a model's own files, are kept with what is trained on it, and may be given otherwise."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import processors

from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.backbone import convert, save_backbone
from prosg.checkpoints.load import load_model
from prosg.checkpoints.special import read_special
from prosg.cli import main
from prosg.data.encode import encode_row, truncate_row
from prosg.data.row import row_from_dict
from prosg.data.templates import TEMPLATES
from prosg.generation.sampling import Sampling
from prosg.model.prosg import ProSG
from prosg.tokenizers.json_file import JsonTokenizer
from prosg.tokenizers.special import RWKV_SPECIAL, SpecialTokens
from support.hf_models import hf_backbone
from support.models import WORDS, live_model, word_tokenizer


def with_begin(token: str) -> JsonTokenizer:
    inner = tokenizers.Tokenizer.from_str(word_tokenizer()._inner.to_str())
    pair = (token, WORDS.index(token))
    inner.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[pair])
    return JsonTokenizer(inner)


def folder(path: Path, tokenizer: JsonTokenizer | None = None, **files: dict[str, Any]) -> Path:
    """A native model's folder, with the content of further files by their names."""
    save_backbone(live_model("rwkv4", None, vocab=len(WORDS)).backbone, path)
    (tokenizer or word_tokenizer()).save(path)
    for name, content in files.items():
        file = path / f"{name}.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**before, **content}))
    return path


@pytest.mark.parametrize(
    ("files", "end"),
    [
        ({}, (0,)),
        ({"config": {"eos_token_id": 5}}, (5,)),
        ({"config": {"eos_token_id": 5}, "generation_config": {"eos_token_id": [7, 3, 7]}}, (7, 3)),
        ({"config": {"eos_token_id": None}}, (0,)),
        ({"config": {"eos_token_id": 50256}}, (0,)),  # a library's default for larger vocabularies
        ({"generation_config": {"eos_token_id": [4, 99999]}}, (4,)),
        ({"generation_config": {"eos_token_id": [4, 6]}, "tokenizer_config": {"eos_token": "ab"}}, (14, 4, 6)),
        ({"generation_config": {"eos_token_id": [4, 6]}, "tokenizer_config": {"eos_token": {"content": "b"}}}, (4, 6)),
        ({"tokenizer_config": {"eos_token": "not a token"}}, (0,)),
    ],
)
def test_end_tokens_are_what_the_files_say(tmp_path: Path, files: dict[str, Any], end: tuple[int, ...]) -> None:
    assert load_model(folder(tmp_path / "m", **files)).special == SpecialTokens(end)


@pytest.mark.parametrize(
    ("rule", "settings", "begin"),
    [
        ("", {}, None),
        ("ab", {}, 14),
        ("ab", {"add_bos_token": False}, None),
        ("", {"add_bos_token": True, "bos_token": "a"}, 3),
        ("", {"add_bos_token": True}, 0),  # config.json's bos_token_id
        ("", {"bos_token": "a"}, None),  # named, and not put before a text
    ],
)
def test_a_prompt_begins_as_the_tokenizer_says(
    tmp_path: Path, rule: str, settings: dict[str, Any], begin: int | None
) -> None:
    tokenizer = with_begin(rule) if rule else word_tokenizer()
    model = load_model(folder(tmp_path / "m", tokenizer, tokenizer_config=settings))
    assert model.special == SpecialTokens((0,), begin)
    ids, lengths = model.tokenise(["Tom saw", "a ab"])
    plain = [[WORDS.index(word) for word in text.split()] for text in ("Tom saw", "a ab")]
    for row, length, words in zip(ids.tolist(), lengths.tolist(), plain, strict=True):
        put = begin is not None and words[0] != begin
        assert row[:length] == ([begin, *words] if put else words)
    assert model.tokenizer is not None
    assert model.tokenizer.encode("Tom saw") == plain[0]  # an answer's text has no beginning of its own


def test_a_pth_has_rwkvs(tmp_path: Path) -> None:
    save_backbone(live_model("rwkv4", None, vocab=len(WORDS)).backbone, tmp_path / "m.pth")
    assert read_special(tmp_path / "m.pth", None, 16) == RWKV_SPECIAL == SpecialTokens((0,), None)


def test_options_say_otherwise(tmp_path: Path) -> None:
    source = folder(tmp_path / "m", config={"eos_token_id": 5})
    assert load_model(source, end_token=[7, 8], begin_token="3").special == SpecialTokens((7, 8), 3)
    assert load_model(source, end_token=7).special == SpecialTokens((7,), None)
    assert load_model(source, begin_token="none").special == SpecialTokens((5,), None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"end_token": [99]}, "end token is 99; the model's vocabulary has the ids 0 to 15"),
        ({"end_token": -1}, "end token is -1"),
        ({"begin_token": "16"}, "begin token is 16"),
        ({"begin_token": "<s>"}, "begin token is '<s>'; allowed: an id, or none"),
        ({"begin_token": "-1"}, "begin token is '-1'"),
    ],
)
def test_ids_that_the_model_does_not_have_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_model(folder(tmp_path / "m"), **options)


def test_generation_refuses_them_too() -> None:
    model = live_model("rwkv4", None, vocab=len(WORDS))
    model.tokenizer = word_tokenizer()
    with pytest.raises(ValueError, match="end_token: end token is 999999; the model's vocabulary has the ids 0 to 15"):
        model.generate("Tom saw", end_token=999999)
    with pytest.raises(ValueError, match="end_token is empty"):
        Sampling(end_token=())


def test_answers_end_at_any_of_the_models_own() -> None:
    model = live_model("rwkv4", None, vocab=len(WORDS))
    model.tokenizer = word_tokenizer()
    with torch.no_grad():
        model.backbone.head.weight *= 0.1  # so that it writes of everything
    options: dict[str, Any] = {"temperature": 2.0, "max_tokens": 30}
    for seed in range(50):
        options["seed"] = seed
        words = model.generate("Tom saw a", end_token=len(WORDS) - 1, **options).split()
        late = list(dict.fromkeys(words))[3:5]
        if len(late) == 2 and WORDS[0] not in words:
            break
    model.special = SpecialTokens(tuple(WORDS.index(word) for word in late))
    expected = words[: min(words.index(word) for word in late)]
    assert len(expected) >= 3
    assert model.generate("Tom saw a", **options).split() == expected
    assert "".join(model.stream("Tom saw a", **options)).split() == expected


SPECIAL = SpecialTokens((7, 3), 4)


def saved(path: Path, name: str) -> Path:
    model = live_model(name, "plus", vocab=len(WORDS))
    model.tokenizer, model.special = word_tokenizer(), SPECIAL
    tokenizer = word_tokenizer().save(path)
    save_backbone(model.backbone, path / "base", tokenizer=tokenizer, special=RWKV_SPECIAL)
    save_adapter(model, path / "adapter", base=path / "base")
    return path / "adapter"


def test_an_adapter_keeps_those_that_it_was_trained_with(tmp_path: Path) -> None:
    adapter = saved(tmp_path, "rwkv4")
    assert load_model(adapter).special == SPECIAL
    assert load_model(adapter, end_token=2).special == SpecialTokens((2,), 4)
    config = json.loads((adapter / "prosg_config.json").read_text())
    del config["end_token"], config["begin_token"]  # as an older version wrote it
    (adapter / "prosg_config.json").write_text(json.dumps(config))
    assert load_model(adapter).special == RWKV_SPECIAL
    (adapter / "prosg_config.json").write_text(json.dumps({**config, "end_token": "0"}))
    with pytest.raises(ValueError, match="prosg_config.json: end_token is '0'"):
        load_model(adapter)


def test_a_folder_keeps_them_through_convert(tmp_path: Path) -> None:
    model = live_model("rwkv7", None, vocab=len(WORDS))
    save_backbone(model.backbone, tmp_path / "a", special=SpecialTokens((7, 3)))
    assert load_model(tmp_path / "a").special == SpecialTokens((7, 3))
    convert(tmp_path / "a", tmp_path / "b")
    assert load_model(tmp_path / "b").special == SpecialTokens((7, 3))


@pytest.mark.parametrize("rule", ["", "ab"])
@pytest.mark.parametrize("begin", [None, 14, 3])
@pytest.mark.parametrize("end", [(0,), (5, 2)])
def test_what_is_written_is_read(tmp_path: Path, rule: str, begin: int | None, end: tuple[int, ...]) -> None:
    tokenizer = with_begin(rule) if rule else word_tokenizer()
    special = SpecialTokens(end, begin)
    model = live_model("rwkv4", None, vocab=len(WORDS)).backbone
    file = tokenizer.save(tmp_path)
    save_backbone(model, tmp_path / "m", tokenizer=file, special=special)
    assert load_model(tmp_path / "m").special == special
    convert(tmp_path / "m", tmp_path / "n")
    assert load_model(tmp_path / "n").special == special


@pytest.mark.parametrize("name", ["rwkv4", "llama"])
def test_a_tokenizers_settings_are_carried_along(name: str, tmp_path: Path) -> None:
    source, file = tmp_path / "a", with_begin("ab").save(tmp_path)
    size = len(WORDS)
    backbone = hf_backbone(name, vocab=size) if name == "llama" else live_model(name, None, vocab=size).backbone
    save_backbone(backbone, source, tokenizer=file)
    plain = json.loads((source / "tokenizer_config.json").read_text())
    assert plain == {"tokenizer_class": "PreTrainedTokenizerFast"}  # as it stands, whatever the model's type names
    own = {"tokenizer_class": "TokenizersBackend", "eos_token": "a", "model_max_length": 77}
    (source / "tokenizer_config.json").write_text(json.dumps({**own, "auto_map": {"AutoTokenizer": ["x.X", None]}}))
    convert(source, tmp_path / "b")
    assert json.loads((tmp_path / "b" / "tokenizer_config.json").read_text()) == own
    assert load_model(tmp_path / "b").special == load_model(source).special == SpecialTokens((3, 0), 14)
    save_backbone(backbone, tmp_path / "c", tokenizer=source / "tokenizer.json", special=SpecialTokens((5,)))
    changed = json.loads((tmp_path / "c" / "tokenizer_config.json").read_text())
    assert changed == {**own, "eos_token": "c", "add_bos_token": False}
    assert load_model(tmp_path / "c").special == SpecialTokens((5,))


def test_what_a_pth_has_no_place_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = live_model("rwkv4", None, vocab=len(WORDS)).backbone
    save_backbone(backbone, tmp_path / "a", special=SPECIAL, template=TEMPLATES["world"])
    save_backbone(backbone, tmp_path / "b.pth", special=RWKV_SPECIAL)
    assert capsys.readouterr().err == ""
    convert(tmp_path / "a", tmp_path / "a.pth")
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("a.pth", "--end-token 7,3", "--begin-token 4", "--template world"):
        assert words in line


def test_rows_are_taught_to_end_with_the_first_and_to_begin(tmp_path: Path) -> None:
    row = row_from_dict({"prompt": "Tom saw", "answer": "a b"})
    encoded = encode_row(row, word_tokenizer(), SPECIAL)
    assert encoded.prompt == [4, 1, 2]
    assert encoded.answer == [3, 4, 7]
    assert encode_row(row, word_tokenizer()).answer == [3, 4, 0]
    assert truncate_row(encoded, 5, SPECIAL).prompt == [4, 2]
    assert truncate_row(encoded, 4, SPECIAL).prompt == [2]


def test_info_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(saved(tmp_path, "rwkv4"))]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("special tokens")]
    assert "7 'red.', 3 'a' ends an answer; 4 'b' stands before a prompt" in line


def test_a_model_without_files_has_rwkvs() -> None:
    assert ProSG(live_model("rwkv4", None).backbone).special == RWKV_SPECIAL


@pytest.mark.parametrize("end", [["a"], [True], [1.0]])
def test_what_is_no_id_ends_no_answer(end: Any) -> None:
    with pytest.raises(ValueError, match=f"end token is {end[0]!r}; allowed: ids"):
        inspect.unwrap(SpecialTokens.changed)(RWKV_SPECIAL, end)
