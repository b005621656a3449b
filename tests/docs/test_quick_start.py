"""The quick start, command by command as the page has them, on a model of random weights and with few steps."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch

from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.backbone import save_backbone
from prosg.cli import main
from support.documents import ROOT, code_blocks, shell_commands

PAGE = ROOT / "docs/quick-start.md"
FEWER = {
    "curve": ["--sentences", "1", "--rows", "6", "--no-free", "--updates", "own"],
    "data": ["--size", "40"],
    "train": ["--optim.steps", "2", "--eval-steps", "2", "--optim.batch-size", "2"],
    "chat": ["--max-tokens", "8"],
    "generate": ["--hold-until", "1"],
}
"""What is appended to a command, so that it takes seconds."""
NOT_RUN = (["--version"], ["curve", "module"], ["curve", "my-module"], ["curve", "rwkv7.pth"])
"""Curves take minutes of a model that is not trained: it ends no sentence."""


@pytest.mark.slow
def test_every_command_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = list(code_blocks([PAGE]))
    own = RWKV7(RWKV7Config(vocab_size=65536, hidden_size=32, num_layers=2, head_size=32))
    own.reset_parameters(torch.Generator().manual_seed(0))
    save_backbone(own, "rwkv7.pth")
    done = []
    for block in blocks:
        if block.language == "python":
            exec(compile(block.text.replace("hidden_size=96", "hidden_size=32"), str(PAGE), "exec"), {})
        for command in shell_commands(block) if block.language == "sh" else ():
            name, *arguments = command.words
            if name != "prosg" or arguments[:2] in NOT_RUN:
                continue
            monkeypatch.setattr("sys.stdin", io.StringIO("Tell a story.\n/memory none\n/again\n/info\n"))
            assert main([*arguments, *FEWER.get(arguments[0], [])]) == 0, f"{command.place}: {capsys.readouterr().err}"
            done.append(arguments[0])
    assert done.count("train") == 5 and done.count("chat") == 5
    printed = capsys.readouterr().out
    assert re.search(r"^memory +none; renewed: never$", printed, re.MULTILINE)
    for name in ("demo-forgets.json", "small", "tuned/model", "module/adapter", "my-module/adapter"):
        assert (tmp_path / name).exists(), name
