"""Every set of instructions that the kernels choose from, on any processor.

The kernels are built once more, with the instructions that they name written out in plain C (support/emulated), and the
operations' own tests run with them: so the paths of processors that this one is not are tested as well.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EMULATED = ROOT / "tests" / "support" / "emulated"
OPERATIONS = ROOT / "src" / "prosg" / "ops"
KERNELS = ("wkv4", "wkv7", "selective_scan", "linear", "step", "block")
AVX512 = "avx2,fma,avx512f,avx512dq,avx512bw,avx512vl"
# What the processor has, and what is tested with it; by what the kernels then say that they use, those of few rows and
# those of recurrences. AVX2 is what most machines have that run the tests anyway.
SETS = {
    ("plain", "plain"): ("", "ops/test_linear", "ops/test_step"),
    ("avx512f", "avx512f"): (AVX512, "ops/test_linear", "ops/test_wkv4", "ops/test_wkv7", "ops/test_selective_scan"),
    # Fewer rows than fill a tile are dot products of bf16.
    ("amx", "avx512f"): (f"{AVX512},avx512bf16,amx-bf16", "ops/test_linear", "ops/test_step", "backbones/test_fused"),
}
COMPILER = shutil.which("cc") or shutil.which("gcc")

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux" or COMPILER is None or not OPERATIONS.is_dir(),
    reason="the kernels choose between sets on x86-64, and this needs a C compiler and the sources",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package whose kernels are emulated."""
    folder = tmp_path_factory.mktemp("emulated")
    shutil.copytree(OPERATIONS.parent, folder / "prosg", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    defined = ["-Dtarget(...)=unused", "-D__builtin_cpu_supports(x)=has(x)", "-Dsyscall=answer"]
    for name in KERNELS:
        command = [str(COMPILER), "-O0", "-w", "-fPIC", "-shared", *defined]
        command += [f"-I{EMULATED}", f"-I{OPERATIONS}", "-include", "immintrin.h"]
        command += [str(OPERATIONS / name / f"{name}.c"), "-o", str(folder / "prosg" / "ops" / f"_{name}.so"), "-lm"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not built.returncode, built.stderr[-3000:]
    return folder


def environment(package: Path, features: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return inherited | {"PYTHONPATH": str(package), "EMULATED": features, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("names", list(SETS), ids=lambda names: names[0])
def test_operations_are_right_with_every_set_of_instructions(names: tuple[str, str], package: Path) -> None:
    features, *files = SETS[names]
    environ = environment(package, features)
    ask = "from prosg.ops.linear.compiled import LIBRARY as a; from prosg.ops.wkv7.compiled import LIBRARY as b; "
    ask += "print(a.description(), b.description())"
    used = subprocess.run([sys.executable, "-c", ask], env=environ, capture_output=True, text=True, check=True).stdout
    assert tuple(used.split()) == names
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += [f"tests/{file}.py" for file in files]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
