"""Says which files go into the wheel; everything else stands in pyproject.toml.

`csrc/` travels inside the wheel as `lightsr_kernels/csrc`, so that later versions can compile kernels on first use.
"""

from setuptools import find_packages, setup

NATIVE = "lightsr_kernels.csrc"

setup(
    packages=[*find_packages(include=["lightsr", "lightsr.*", "lightsr_kernels", "lightsr_kernels.*"]), NATIVE],
    package_dir={NATIVE: "csrc"},
    package_data={"": ["py.typed"], NATIVE: ["**/*"]},
)
