"""Updates, states and models in llama.cpp: what the files say, and that the engine computes with them what we do."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.quantised import quantise
from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.checkpoints.gguf_lora import export_gguf_lora
from prosg.checkpoints.gguf_model import export_gguf_model
from prosg.checkpoints.invocation import invocation_tokens
from prosg.checkpoints.llama_state import export_llama_state
from prosg.core.update import LowRank, Update
from prosg.data.jinja_template import JinjaTemplate
from prosg.data.templates import NONE, TEMPLATES, ChatTemplate, Turn
from prosg.model.prosg import ProSG
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.files import load_tokenizer
from prosg.tokenizers.special import RWKV_SPECIAL
from prosg.utils.io import CheckpointError
from support.hf_models import hf_backbone, hf_model
from support.models import TINY, gap, live_backbone, rwkv7, tokens, word_tokenizer

if TYPE_CHECKING:
    from support.llama import Engine

gguf = pytest.importorskip("gguf")
needs_engine = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama_cpp is not installed")

VOCAB, RANK = 50, 3
SIZES = {
    "two heads": {"hidden_size": 128, "num_layers": 3, "head_size": 64, "value_rank": 8, "rate_rank": 16},
    "three heads": {"hidden_size": 192, "num_layers": 2, "head_size": 64, "decay_rank": 8, "ffn_size": 320},
}
NEAR = 1e-3
"""Largest difference of logits in units of the largest; two best logits that lie so near may change places."""


def make(size: str, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32) -> RWKV7:
    monkeypatch.setitem(TINY, "for llama.cpp", rwkv7(**SIZES[size]))
    backbone: RWKV7 = live_backbone("for llama.cpp", dtype, VOCAB)
    return backbone


def random_update(backbone: Any, scale: float = 0.5, batch: int = 1) -> Update:
    generator = torch.Generator().manual_seed(1)
    return {
        site: LowRank(
            scale * torch.randn(batch, RANK, inp, generator=generator) / inp**0.5,
            torch.randn(batch, out, RANK, generator=generator) / RANK**0.5,
        )
        for site, (out, inp) in backbone.sites.items()
    }


def fields(path: Path) -> dict[str, Any]:
    """The keys of a GGUF file."""
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def test_what_an_adapter_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = make("two heads", monkeypatch)
    update = random_update(backbone)
    export_gguf_lora(backbone, update, tmp_path / "x.gguf", invocation=[7, 3])
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    said = fields(tmp_path / "x.gguf")
    assert (said["general.type"], said["general.architecture"], said["adapter.type"]) == ("adapter", "rwkv7", "lora")
    assert said["adapter.lora.alpha"] == RANK
    field = reader.fields["adapter.alora.invocation_tokens"]
    assert field.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32] and field.contents() == [7, 3]
    stored = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    assert len(stored) == 2 * 4 * 3
    for site, delta in update.items():
        stem = f"blk.{site.layer}.time_mix_{site.name}.weight"
        assert torch.equal(stored[f"{stem}.lora_b"] @ stored[f"{stem}.lora_a"], delta.dense()[0])
    export_gguf_lora(backbone, update, tmp_path / "plain.gguf")
    assert "adapter.alora.invocation_tokens" not in fields(tmp_path / "plain.gguf")


def test_what_a_model_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ProSG(make("three heads", monkeypatch, torch.bfloat16))
    told = export_gguf_model(model, tmp_path / "x.gguf")
    assert "token ids" in told and "heads" not in told
    said = fields(tmp_path / "x.gguf")
    sizes = {"embedding_length": 192, "block_count": 2, "feed_forward_length": 320, "wkv.head_size": 64}
    sizes |= {"attention.decay_lora_rank": 8, "attention.iclr_lora_rank": 4, "attention.gate_lora_rank": 4}
    assert {key: said[f"rwkv7.{key}"] for key in sizes} == sizes
    small = ProSG(RWKV7(RWKV7Config(vocab_size=9, hidden_size=64, num_layers=1, head_size=32)))
    assert "heads of 32" in export_gguf_model(small, tmp_path / "small.gguf")
    assert "weights, float64, are written as float32" in export_gguf_model(small.double(), tmp_path / "wide.gguf")
    assert said["tokenizer.ggml.model"] == "none" and said["rwkv7.vocab_size"] == VOCAB
    types = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    assert {name for name, kind in types.items() if kind == gguf.GGMLQuantizationType.BF16} == {
        "token_embd.weight",
        "output.weight",
        *(f"blk.{i}.time_mix_{name}.weight" for i in range(2) for name in RWKV7.site_names),
        *(f"blk.{i}.channel_mix_{name}.weight" for i in range(2) for name in ("key", "value")),
    }


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = make("two heads", monkeypatch)
    update = random_update(backbone)
    with pytest.raises(ValueError, match="2 prompts"):
        export_gguf_lora(backbone, random_update(backbone, batch=2), tmp_path / "x.gguf")
    with pytest.raises(CheckpointError, match="x.bin: a GGUF file ends in .gguf"):
        export_gguf_lora(backbone, update, tmp_path / "x.bin")
    rwkv4 = live_backbone("rwkv4", torch.float32)
    with pytest.raises(
        ValueError, match="adapters for rwkv7, mamba, falcon_mamba, mamba2, .* is rwkv4; use prosg merge"
    ):
        export_gguf_lora(rwkv4, random_update(rwkv4), tmp_path / "x.gguf")
    with pytest.raises(ValueError, match="of an RWKV-7, and this is rwkv4"):
        export_gguf_model(ProSG(rwkv4), tmp_path / "x.gguf")
    wide = RWKV7(RWKV7Config(vocab_size=9, hidden_size=32, num_layers=1, head_size=16, attention_size=64))
    with pytest.raises(ValueError, match="attention_size is 64; .*32"):
        export_gguf_model(ProSG(wide), tmp_path / "x.gguf")
    other = RWKV7(RWKV7Config(vocab_size=9, hidden_size=32, num_layers=1, head_size=16, ln_x_eps=1e-5))
    with pytest.raises(ValueError, match="ln_x_eps is 1e-05; .*0.00064"):
        export_gguf_model(ProSG(other), tmp_path / "x.gguf")
    narrow = make("two heads", monkeypatch)
    quantise(narrow)
    with pytest.raises(ValueError, match="quantised"):
        export_gguf_model(ProSG(narrow), tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="RWKV-7 alone, .* rwkv4"):
        export_llama_state(rwkv4, rwkv4.init_state(1), [1], tmp_path / "x.bin")
    with pytest.raises(ValueError, match="at least one token"):
        export_llama_state(backbone, backbone.init_state(1), [], tmp_path / "x.bin")
    with pytest.raises(ValueError, match="version is 5; allowed: 3, 4"):
        export_llama_state(backbone, backbone.init_state(1), [1], tmp_path / "x.bin", version=5)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.gguf").write_text("mine")
    with pytest.raises(FileExistsError, match="x.gguf: exists"):
        export_gguf_lora(backbone, update, tmp_path / "x.gguf")


def test_the_sites_of_mambas_kinds() -> None:
    from prosg.checkpoints.gguf_lora import gguf_site_names

    for name, architecture in (("mamba", "mamba"), ("falcon_mamba", "mamba"), ("mamba2", "mamba2")):
        found, stems = gguf_site_names(hf_backbone(name))
        assert found == architecture
        assert all(stem == f"blk.{site.layer}.ssm_{site.name.removesuffix('_proj')}" for site, stem in stems.items())


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_ids_that_end_every_prompt() -> None:
    world = load_tokenizer("world")
    assert invocation_tokens(TEMPLATES["world"], world, RWKV_SPECIAL)[-3:] == [5585, 41693, 59]
    bpe = train_bpe(["User: a\n\nAssistant: b"] * 3, 300)
    templates: list[tuple[ChatTemplate, str]] = [(TEMPLATES["pile"], "\n\nAnswer:")]
    templates.append((JinjaTemplate(CHATML, {}, (), "a test"), "<|im_end|>\n<|im_start|>assistant\n"))
    for template, closing in templates:
        ids = template.frame([Turn("user", "Name a tree")]).prompt_ids(bpe, RWKV_SPECIAL)
        found = invocation_tokens(template, bpe, RWKV_SPECIAL, ids)
        assert bpe.decode(found) == closing and ids[-len(found) :] == found
    assert invocation_tokens(NONE, bpe, RWKV_SPECIAL, [5, 6, 7]) == [7]
    with pytest.raises(ValueError, match="template 'none' ends prompts with nothing"):
        invocation_tokens(NONE, bpe, RWKV_SPECIAL)


@pytest.fixture
def engine() -> Iterator[Callable[[Path], Engine]]:
    """Opens model files in llama.cpp."""
    from support.llama import Engine

    opened: list[Engine] = []

    def start(path: Path) -> Engine:
        opened.append(Engine(path))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def logits_of(backbone: Any, ids: Sequence[int], update: Update | None = None, start: int = 0) -> Tensor:
    """Logits (T, V), with the update acting from position `start` on."""
    with torch.no_grad():
        acts = None if update is None else torch.tensor([start])
        logits: Tensor = backbone(torch.tensor([list(ids)]), update=update, update_from=acts).logits[0].float()
    return logits


def same_greedy_text(
    engine: Engine, backbone: Any, theirs: Tensor, state: Any, ours: Tensor, update: Update | None
) -> int:
    """Writes 200 tokens with both. Returns how many are equal; at the first that is not, two logits are as good."""
    for count in range(200):
        token = int(ours.argmax())
        if token != int(theirs.argmax()):
            best = ours.topk(2).values
            assert float(best[0] - best[1]) <= NEAR * float(ours.abs().max())
            return count
        theirs = engine.read([token])[-1]
        with torch.no_grad():
            output = backbone(torch.tensor([[token]]), state, update=update)
        ours, state = output.logits[0, -1], output.state
    return 200


@needs_engine
@pytest.mark.parametrize("size", SIZES)
def test_llama_cpp_computes_the_same(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Callable[[Path], Engine]
) -> None:
    backbone = make(size, monkeypatch)
    update = random_update(backbone)
    prompt, answer = tokens(1, 30, vocab=VOCAB)[0].tolist(), tokens(1, 20, seed=1, vocab=VOCAB)[0].tolist()
    export_gguf_model(ProSG(backbone), tmp_path / "model.gguf")
    export_gguf_lora(backbone, update, tmp_path / "plain.gguf")
    export_gguf_lora(backbone, update, tmp_path / "activated.gguf", invocation=prompt[-2:])
    llama = engine(tmp_path / "model.gguf")

    bare = logits_of(backbone, prompt + answer)
    assert gap(llama.read(prompt + answer), bare) < NEAR

    llama.clear()
    llama.adapt(tmp_path / "plain.gguf")
    everywhere = logits_of(backbone, prompt + answer, update)
    assert gap(llama.read(prompt + answer), everywhere) < NEAR
    assert gap(everywhere, bare) > 0.1

    # As here: the prompt is read without the update, which acts from the answer on.
    llama.clear()
    llama.adapt(None)
    read = llama.read(prompt)
    assert gap(read, bare[:30]) < NEAR
    llama.adapt(tmp_path / "activated.gguf")
    assert llama.invocation() == prompt[-2:]
    from_answer = logits_of(backbone, prompt + answer, update, 30)
    assert gap(llama.read(answer), from_answer[30:]) < NEAR
    assert gap(from_answer[30:], everywhere[30:]) > 0.01

    # The prompt's state comes out of a file; its last token is read once more, for the first logits.
    with torch.no_grad():
        state = backbone(torch.tensor([prompt[:-1]])).state
    export_llama_state(backbone, state, prompt[:-1], tmp_path / "state.bin", version=3)
    llama.clear()
    llama.adapt(None)
    assert llama.load(tmp_path / "state.bin") == prompt[:-1]
    first = llama.read(prompt[-1:])[-1]
    assert gap(first, bare[29]) < NEAR
    llama.adapt(tmp_path / "activated.gguf")
    with torch.no_grad():
        output = backbone(torch.tensor([prompt]))
    assert same_greedy_text(llama, backbone, first, output.state, output.logits[0, -1], update) > 20


@needs_engine
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_matrices(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Callable[[Path], Engine]
) -> None:
    backbone = make("two heads", monkeypatch, dtype)
    export_gguf_model(ProSG(backbone), tmp_path / "model.gguf")
    ids = tokens(1, 20, vocab=VOCAB)[0].tolist()
    assert gap(engine(tmp_path / "model.gguf").read(ids), logits_of(backbone.float(), ids)) < 0.05


def ask(server: Any, path: str, **body: Any) -> Any:
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode())
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def test_llama_server_activates_the_adapter_and_restores_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its adapter acts from the token before the invocation on."""
    xllamacpp = pytest.importorskip("xllamacpp")
    monkeypatch.setitem(TINY, "for llama.cpp", rwkv7(**SIZES["three heads"]))
    backbone = live_backbone("for llama.cpp", torch.float32, 280)
    update, model = random_update(backbone), ProSG(backbone)
    model.tokenizer = train_bpe(["the cat is old"] * 9, 270)  # without one the server ends
    prompt = [*tokens(1, 30, vocab=250)[0].tolist(), 3, 5]
    read = prompt[:-3]
    export_gguf_model(model, tmp_path / "model.gguf")
    export_gguf_lora(backbone, update, tmp_path / "lora.gguf", invocation=prompt[-2:])
    with torch.no_grad():
        state = backbone(torch.tensor([read])).state
    export_llama_state(backbone, state, read, tmp_path / "state.bin")
    options = xllamacpp.CommonParams()
    options.model.path, options.slot_save_path = str(tmp_path / "model.gguf"), f"{tmp_path}/"
    options.n_ctx, options.n_parallel, options.cpuparams.n_threads, options.cache_ram_mib = 512, 1, 1, 0
    options.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(tmp_path / "lora.gguf"), 1.0)]
    server = xllamacpp.Server(options)
    ask(server, "/slots/0?action=restore", filename="state.bin")
    asked = {"n_predict": 40, "temperature": 0, "id_slot": 0, "return_tokens": True}
    reply = ask(server, "/completion", prompt=prompt, **asked)
    assert reply["timings"]["prompt_n"] == 3 and reply["timings"]["cache_n"] == len(read)

    def behind(start: int) -> float:
        """How far the tokens' logits lie below the greatest, of the largest's size; update from `start` on."""
        ours = logits_of(backbone, prompt + reply["tokens"][:-1], update, start)[len(prompt) - 1 :]
        taken = ours.gather(1, torch.tensor(reply["tokens"]).unsqueeze(1)).squeeze(1)
        return float((ours.amax(1) - taken).max() / ours.abs().max())

    assert behind(len(read)) < NEAR < min(behind(0), behind(len(prompt)))


TEXTS = [
    "User: Name 12 trees, it's 3.5 m!\n\nAssistant:",
    "a  b\t c\n\n\nd   \n e",
    "Grüße, 你好 😀",
    "don't 1234567 (x) --",
]


@needs_engine
@pytest.mark.parametrize("kind", ["world", "bpe", "words"])
def test_the_tokenizer_goes_along(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Callable[[Path], Engine]
) -> None:
    size = {"world": 65536, "bpe": 460, "words": 20}[kind]
    model = ProSG(RWKV7(RWKV7Config(vocab_size=size, hidden_size=64, num_layers=1)))
    model.backbone.reset_parameters()
    bpe = train_bpe([*TEXTS, "the cat isn't 12 years old\n\nAssistant: no, 345" * 9], 450)
    model.tokenizer = {"world": load_tokenizer("world"), "bpe": bpe, "words": word_tokenizer()}[kind]
    said = export_gguf_model(model, tmp_path / "model.gguf")
    keys = fields(tmp_path / "model.gguf")
    if kind == "words":
        assert "token ids" in said and keys["tokenizer.ggml.model"] == "none"
        return
    llama = engine(tmp_path / "model.gguf")
    for text in TEXTS:
        ids = model.tokenizer.encode(text)
        assert llama.tokenise(text) == ids
        assert llama.llm.detokenize(ids).decode() == text
    assert llama.llm.token_eos() == 0
    assert ("tokenizer.chat_template" in keys) == (kind == "world")


@needs_engine
def test_an_adapter_of_mamba(tmp_path: Path, engine: Callable[[Path], Engine]) -> None:
    backbone = HFBackbone(hf_model("mamba", vocab=VOCAB, hidden_size=64, state_size=16, time_step_rank=4))
    update, ids = random_update(backbone), tokens(1, 30, vocab=VOCAB)[0].tolist()
    write_mamba(backbone.model, tmp_path / "model.gguf")
    export_gguf_lora(backbone, update, tmp_path / "lora.gguf")
    llama = engine(tmp_path / "model.gguf")
    assert gap(llama.read(ids), bare := logits_of(backbone, ids)) < NEAR
    llama.clear()
    llama.adapt(tmp_path / "lora.gguf")
    assert gap(llama.read(ids), updated := logits_of(backbone, ids, update)) < NEAR
    assert gap(updated, bare) > 0.1


def write_mamba(model: Any, path: Path) -> None:
    """As llama.cpp's own converter writes it, without a tokenizer."""
    from prosg.checkpoints.gguf_file import gguf_file

    config, state = model.config, model.state_dict()
    with gguf_file(path, "mamba") as file:
        writer = file.writer
        writer.add_context_length(1 << 20)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_ssm_conv_kernel(config.conv_kernel)
        writer.add_ssm_inner_size(config.intermediate_size)
        writer.add_ssm_state_size(config.state_size)
        writer.add_ssm_time_step_rank(int(config.time_step_rank))
        writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config.vocab_size)
        file.add_tensor("token_embd.weight", state["backbone.embeddings.weight"])
        file.add_tensor("output_norm.weight", state["backbone.norm_f.weight"])
        file.add_tensor("output.weight", state["lm_head.weight"])
        for i in range(config.num_hidden_layers):
            mixer = f"backbone.layers.{i}.mixer"
            file.add_tensor(f"blk.{i}.attn_norm.weight", state[f"backbone.layers.{i}.norm.weight"])
            file.add_tensor(f"blk.{i}.ssm_a", -state[f"{mixer}.A_log"].exp())
            file.add_tensor(f"blk.{i}.ssm_d", state[f"{mixer}.D"])
            file.add_tensor(f"blk.{i}.ssm_conv1d.weight", state[f"{mixer}.conv1d.weight"].squeeze(1))
            file.add_tensor(f"blk.{i}.ssm_conv1d.bias", state[f"{mixer}.conv1d.bias"])
            file.add_tensor(f"blk.{i}.ssm_dt.bias", state[f"{mixer}.dt_proj.bias"])
            for name in ("in", "x", "dt", "out"):
                file.add_tensor(f"blk.{i}.ssm_{name}.weight", state[f"{mixer}.{name}_proj.weight"])
