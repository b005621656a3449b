"""Configuration files of builds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from prosg.musi.config import BuildConfig, load_config
from prosg.utils.options import help_text

GOOD: dict[str, Any] = {"out": "x", "endpoint": {"model": "m"}, "budget": {"requests": 1, "tokens": 1}}


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "build.yaml"
    file.write_text(yaml.safe_dump(GOOD | changes))
    return file


def test_the_judge_may_differ_from_the_endpoint(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, verify={"endpoint": {"model": "judge"}}, prompts={"count": 7}))
    assert (config.endpoint.model, config.judge.model, config.prompts.count) == ("m", "judge", 7)
    other = {"base_url": "http://127.0.0.1:8001/v1", "api_key_env": "OTHER"}
    assert load_config(write(tmp_path, verify={"endpoint": other})).judge.api_key_env == "OTHER"
    here = {"base_url": "http://127.0.0.1:8000/v2"}
    assert load_config(write(tmp_path, verify={"endpoint": here})).judge.api_key_env == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"out": ""}, ("out is missing",)),
        ({"filter": {"similar_above": 1.5}}, ("filter.similar_above is 1.5", "between 0 and 1")),
        ({"filter": {"stages": 1}}, ("filter.stages is 1", "at least 2")),
        ({"filter": {"shortest": 9, "longest": 8}}, ("filter.longest is 8", "filter.shortest")),
        ({"endpoint": {"model": "m", "modle": "x"}}, ("endpoint.modle", "base_url, model")),
        ({"endpoint": {"model": "m", "json": "xml"}}, ("endpoint.json is 'xml'", "schema, object, none")),
        ({"endpoint": {"model": ""}}, ("endpoint.model is missing",)),
        ({"verify": {"endpoint": {"model": ""}}}, ("verify.endpoint.model is missing",)),
        ({"verify": {"endpoint": {"modle": "x"}}}, ("verify.endpoint.modle",)),
        (
            {"verify": {"endpoint": {"base_url": "http://127.0.0.1:8001/v1"}}},
            ("verify.endpoint.base_url", "verify.endpoint.api_key_env"),
        ),
        ({"verify": {"endpoint": {"base_url": "localhost"}}}, ("verify.endpoint.base_url", "http://")),
        ({"budget": {"requests": 1}}, ("budget.tokens is missing",)),
        ({"export": {"sources": [{"licence": "MIT"}]}}, ("export.sources[0]", "name")),
        ({"prompts": {"count": True}}, ("prompts.count is True", "int")),
        ({"prompts": {"count": 0}}, ("prompts.count is 0", "at least 1")),
        ({"prompts": {"temperature": -1.0}}, ("prompts.temperature is -1", "0 or more")),
        ({"seed": "x"}, ("seed is 'x'", "int")),
        ({"prompts": 3}, ("prompts is a int",)),
    ],
)
def test_bad_values_name_file_and_key(tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        load_config(write(tmp_path, **changes))
    assert all(word in str(error.value) for word in ("build.yaml", *words))


def test_a_folder_in_place_of_the_files(tmp_path: Path) -> None:
    file = write(tmp_path, out="")
    assert load_config(file, str(tmp_path / "other")).folder == tmp_path / "other"
    for out, words in (("", "--out is missing"), (str(file), "which is a file")):
        with pytest.raises(ValueError, match=f"--out.*{words}" if out else words):
            load_config(file, out)


def test_the_help_names_every_option() -> None:
    text = help_text(BuildConfig)
    assert "  endpoint.base_url: " in text and "budget: " in text
    assert text.count("(default:") > 45
