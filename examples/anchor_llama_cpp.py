r"""An anchor for llama.cpp, whatever the RWKV-7 in the .gguf file, through llama-cpp-python and without prosg.

python anchor_llama_cpp.py model.gguf $'User: List four names, tell a story, then list them again.\n\nAssistant:'

llama.cpp cannot pull the memory back inside its graph. It can hand a sequence's state out and take it back, so every
few tokens the memory in that state is moved towards what it was at the prompt's end.
"""

import argparse
import ctypes
import math
import struct
import sys

import llama_cpp
import numpy as np

MAGIC = 0xAF143CD8
"""What saved states begin with, followed by the sequence's number; earlier releases have neither."""


def saved(context, sequence=0):
    """A sequence's state, as llama.cpp saves it."""
    size = llama_cpp.llama_state_seq_get_size(context, sequence)
    buffer = (ctypes.c_uint8 * size)()
    assert llama_cpp.llama_state_seq_get_data(context, buffer, size, sequence) == size
    return buffer


def memories(buffer):
    """The memory of each layer in a saved state, as arrays that are part of it: after the cells all layers' token
    shifts, then all layers' memories, each of them a type (0: fp32), a size in bytes and its values.
    """
    place = 8 if struct.unpack_from("<I", buffer) == (MAGIC,) else 0
    cells, _, _, transposed, layers = struct.unpack_from("<IiIII", buffer, place)
    assert cells == 1 and not transposed, "not the state of one sequence of a recurrent model"
    place, found = place + 20, []
    for _ in range(2 * layers):
        kind, size = struct.unpack_from("<iQ", buffer, place)
        assert kind == 0, "the state is not fp32"
        found.append(np.frombuffer(buffer, "<f4", size // 4, place + 12))
        place += 12 + size
    return found[layers:]


def pull(context, target, steps=1, tau=50.0):
    """S <- keep S + (1 - keep) S_target, for `steps` tokens at once; what is older than tau tokens fades sooner."""
    keep = math.exp(-steps / tau)
    buffer = saved(context)
    for memory, goal in zip(memories(buffer), target, strict=True):
        memory[:] = keep * memory + (1 - keep) * goal
    assert llama_cpp.llama_state_seq_set_data(context, buffer, len(buffer), 0)


def read(context, tokens):
    """Reads tokens on from where the sequence is. Returns the logits after the last."""
    array = (llama_cpp.llama_token * len(tokens))(*tokens)
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(context)))
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (size,)).copy()


def write(llm, prompt, count=200, every=1, tau=50.0, seed=0):
    """Yields `count` tokens after a prompt (of at most `n_batch` tokens), with the state pulled every few tokens."""
    context, random = llm.ctx, np.random.default_rng(seed)
    logits = read(context, prompt)
    target = [memory.copy() for memory in memories(saved(context))]
    for step in range(1, count + 1):
        odds = np.exp((logits - logits.max()) / 0.8)
        token = int(random.choice(len(odds), p=odds / odds.sum()))
        yield token
        logits = read(context, [token])
        if step % every == 0:
            pull(context, target, every, tau)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the .gguf file of an RWKV-7")
    parser.add_argument("prompt")
    options = parser.parse_args()
    llm = llama_cpp.Llama(options.model, n_ctx=0, verbose=False)
    prompt = llm.tokenize(options.prompt.encode(), add_bos=False)
    for token in write(llm, prompt, every=4):
        if token == llm.token_eos():
            break
        sys.stdout.buffer.write(llm.detokenize([token]))
        sys.stdout.flush()
