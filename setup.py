"""Builds the compiled kernels; everything else about the package is in pyproject.toml.

The libraries have a plain C interface and are loaded with ctypes. They are optional: without a working C compiler the
package is installed without them, and the kernels in plain PyTorch are used.
"""

from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildKernels(build_ext):
    """`build_ext` for libraries that are no Python modules."""

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "unix":
            # The kernels read neither errno nor floating-point flags; without them the loops vectorise.
            ext.extra_compile_args = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
        super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None beside those marked in the source: there is no PyInit function."""
        return ext.export_symbols


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(
            f"prosg.ops._{name}",
            [f"src/prosg/ops/{name}/{name}.c"],
            include_dirs=["src/prosg/ops"],
            depends=sorted(glob("src/prosg/ops/*.h")),
            optional=True,
        )
        for name in ("wkv4", "wkv7", "selective_scan")
    ],
)
