"""A finished training's output folder is a model's name like any other."""

from __future__ import annotations

import shutil

from prosg.checkpoints.load import demo_model, load_model


def test_an_output_folder_stands_for_what_it_holds(tmp_path):
    shutil.copytree(demo_model().parent, tmp_path / "assets")
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "assets" / "plus").rename(run / "adapter")
    (tmp_path / "assets" / "base").rename(tmp_path / "base")
    config = run / "adapter" / "prosg_config.json"
    config.write_text(config.read_text().replace("../base", "../../base"))
    (run / "result.json").write_text("{}")
    model = load_model(run)
    assert model.synthesizer is not None
    assert model.tokenizer is not None
    assert model.generate("Remember the code 4821937. Now repeat the code.", temperature=0.0) == ["Code: 4821937"]
