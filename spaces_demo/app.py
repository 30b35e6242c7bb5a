"""The Space: installs hf_ris from the wheel beside this file, and serves the demo."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path


if importlib.util.find_spec("spaces"):
    import spaces  # noqa: F401  before torch, where GPUs are shared

if importlib.util.find_spec("hf_ris") is None:
    from packaging.utils import parse_wheel_filename

    wheels = Path(__file__).parent.glob("hf_ris-*.whl")
    wheel = max(wheels, key=lambda path: parse_wheel_filename(path.name)[1])  # 0.10 is newer than 0.9
    installed = tempfile.mkdtemp()
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", installed, wheel], check=True)
    sys.path.insert(0, installed)

from hf_ris.demo import launch


launch()
