"""Says which files go into the wheel; everything else stands in pyproject.toml.

`csrc/` travels inside the wheel as `lightsr_kernels/csrc`, so that kernels can be compiled on first use. LIGHTSR_AOT
(cpu, cuda or cpu,cuda) compiles them into the wheel instead (docs/build.md); only then is torch imported.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

NATIVE = "lightsr_kernels.csrc"
AHEAD = [word for word in os.environ.get("LIGHTSR_AOT", "").replace(" ", "").split(",") if word]
if not set(AHEAD) <= {"cpu", "cuda"}:
    sys.exit(f"LIGHTSR_AOT must be cpu, cuda or cpu,cuda; got {os.environ['LIGHTSR_AOT']!r}")


class Build(build_py):
    def run(self) -> None:
        super().run()
        folder = Path(self.build_lib) / "lightsr_kernels" / "lib"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier wheel
        if not AHEAD:
            return
        sys.path.insert(0, str(Path(__file__).parent))
        try:
            from lightsr_kernels import prebuilt
        except ModuleNotFoundError as error:
            sys.exit(f"LIGHTSR_AOT needs {error.name} to compile with: install it and use --no-build-isolation")
        try:
            for part in AHEAD:
                print(*prebuilt.make(part, folder), sep="\n")
        except prebuilt.BuildError as error:
            sys.exit(str(error))


class Parts(Distribution):
    def has_ext_modules(self) -> bool:
        return bool(AHEAD)  # makes it a wheel for this system


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])  # compiled kernels know nothing of Python


setup(
    packages=[*find_packages(include=["lightsr", "lightsr.*", "lightsr_kernels", "lightsr_kernels.*"]), NATIVE],
    package_dir={NATIVE: "csrc"},
    package_data={
        "": ["py.typed"],
        "lightsr": ["recipes/*.toml", "weights/*"],
        "lightsr_kernels.depthwise_conv": ["tuned/*.json"],
        NATIVE: ["**/*"],
    },
    distclass=Parts,
    cmdclass={"build_py": Build, "bdist_wheel": Wheel},
)
