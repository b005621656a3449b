#!/usr/bin/env bash
# What a first GPU is used for, in under ten minutes: the tests that need one, then speed and memory.
#
#   bash scripts/gpu_check.sh            with the Python of PYTHON (default: python3)
#
# Needs the package's dependencies; what is missing is installed where pip can. A part that fails does not stop the
# others. Figures go to benchmarks/results/gpu.json; the status is 0 if everything passed. Triton keeps the kernels that
# it has compiled (~/.triton), so a second run measures what the first had no time for.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
failed=()

part() { # part NAME SECONDS COMMAND...
    local name=$1 limit=$2 begin=$SECONDS status
    shift 2
    echo "== $name (at most $limit s)"
    timeout --kill-after=5 "$limit" "$@"
    status=$?
    ((status)) && failed+=("$name")
    case $status in
    0) echo "== $name: passed, $((SECONDS - begin)) s" ;;
    124 | 137) echo "== $name: not done after $limit s" ;;
    *) echo "== $name: failed with status $status, $((SECONDS - begin)) s" ;;
    esac
}

importable() { "$python" -c "import $1" 2>/dev/null; }

if ! importable "jaxtyping, beartype, pytest, transformers, peft"; then
    part "installing the package" 120 "$python" -m pip install --quiet -e ".[dev,gpu]"
elif ! importable "fla, triton"; then
    part "installing the kernels" 60 "$python" -m pip install --quiet "fla-core[cuda]>=0.6"
fi

describe='
import torch
from prosg.ops.retention import RETENTION
from prosg.ops.wkv4 import WKV4
from prosg.ops.wkv7 import WKV7
assert torch.cuda.is_available(), "PyTorch finds no GPU"
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
for operation in (WKV4, WKV7, RETENTION):
    print(operation.describe(torch.device("cuda"), torch.float32))
'
part "device" 60 "$python" -c "$describe"
# Exact products, so that fp32 is compared as fp32. The benchmark has the ordinary ones.
part "tests" 170 env TRITON_F32_DEFAULT=ieee "$python" -m pytest -q -m gpu \
    tests/ops/test_fla.py tests/integration/test_gpu.py
part "speed and memory" 300 "$python" benchmarks/gpu.py --out benchmarks/results/gpu.json --overwrite --limit 150 --budget 290

if ((${#failed[@]})); then
    printf '== did not pass: %s\n' "${failed[@]}"
    exit 1
fi
echo "== everything passed"
