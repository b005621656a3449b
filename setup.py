"""Builds the compiled kernels; everything else about the package is in pyproject.toml.

The libraries have a plain C interface, are loaded with ctypes and know nothing of Python: one wheel serves every Python
of a platform, and carries the tag py3-none-PLATFORM. They are optional. Without a working C compiler, or where the
environment variable PROSG_NO_KERNELS is set, the wheel is one of pure Python, py3-none-any, which runs everywhere with
the kernels in plain PyTorch.
"""

import os
from glob import glob
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class BuildKernels(build_ext):
    """`build_ext` for libraries that are no Python modules; those that do not compile are left out of the package."""

    def run(self) -> None:
        if os.environ.get("PROSG_NO_KERNELS"):
            self.extensions = []
        self.parallel = self.parallel or os.cpu_count()
        super().run()
        built = [ext for ext in self.extensions if Path(self.get_ext_fullpath(ext.name)).exists()]
        if len(built) < len(KERNELS):
            self.warn(
                f"{len(built)} of {len(KERNELS)} C kernels are built (the C compiler's messages, if any, are above); "
                "the package runs without them, on slower ones in PyTorch"
            )
        self.distribution.ext_modules = self.extensions = built

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "unix":
            # The kernels read neither errno nor floating-point flags; without them the loops vectorise.
            ext.extra_compile_args = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
        super().build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        """A library's file, without the tag of the Python that builds it."""
        return os.path.join(*fullname.split(".")) + EXTENSION_SUFFIXES[-1]

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None beside those marked in the source: there is no PyInit function."""
        return ext.export_symbols


class BuildWheel(bdist_wheel):
    """`bdist_wheel` whose tag names the platform alone, and none where there are no libraries."""

    def run_command(self, command: str) -> None:
        super().run_command(command)
        if command == "build":
            self.root_is_pure = not self.distribution.has_ext_modules()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


KERNELS = [
    Extension(
        f"prosg.ops._{name}",
        [f"src/prosg/ops/{name}/{name}.c"],
        include_dirs=["src/prosg/ops"],
        depends=sorted(glob("src/prosg/ops/**/*.h", recursive=True)),
        optional=True,
    )
    for name in ("wkv4", "wkv7", "selective_scan", "linear", "step", "block")
]

setup(cmdclass={"build_ext": BuildKernels, "bdist_wheel": BuildWheel}, ext_modules=KERNELS)
