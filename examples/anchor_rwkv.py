"""An anchor for the `rwkv` package, whatever the checkpoint: RWKV-4 and RWKV-7, without prosg.

model = RWKV(model="RWKV-x070-World-0.1B", strategy="cpu fp32")
logits, state = model.forward(prompt_tokens, None)
target = anchor_of(model, state)
while ...:
    logits, state = model.forward([sample(logits)], state)
    pull(model, state, target)
"""

import math

import torch


def anchor_of(model, state, age=15.0):
    """The state at the prompt's end, to be pulled back to; RWKV-4's is aged by so many empty tokens."""
    target = [leaf.clone() for leaf in state]
    if len(state) == 5 * model.args.n_layer:  # RWKV-4: att shift, aa, bb, pp, ffn shift
        for i in range(model.args.n_layer):
            target[5 * i + 3] += age * model.w[f"blocks.{i}.att.time_decay"]
    return target


def pull(model, state, target, tau=50.0):
    """S <- keep S + (1 - keep) S_target, in place, after every token; what is older than tau tokens fades sooner."""
    keep, share = math.exp(-1 / tau), -math.expm1(-1 / tau)
    for i in range(model.args.n_layer):
        if len(state) == 3 * model.args.n_layer:  # RWKV-7: att shift, memory, ffn shift
            state[3 * i + 1] = keep * state[3 * i + 1] + share * target[3 * i + 1]
            continue
        aa, bb, pp = 5 * i + 1, 5 * i + 2, 5 * i + 3
        top = torch.maximum(state[pp] + math.log(keep), target[pp] + math.log(share))
        old, new = keep * (state[pp] - top).exp(), share * (target[pp] - top).exp()
        state[aa], state[bb] = old * state[aa] + new * target[aa], old * state[bb] + new * target[bb]
        state[pp] = top
