"""The wheel: it builds, holds the package and nothing else, and is what an import finds once installed."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tritonconv

ROOT = Path(__file__).parent.parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@pytest.mark.slow
def test_a_wheel_is_built_and_installs(tmp_path):
    """Its build fetches hatchling."""
    subprocess.run([*PIP, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "tritonconv"
    assert names == {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.suffix in (".py", ".typed")}
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    code = "import torch, tritonconv; print(tritonconv.__file__, tritonconv.__version__); tritonconv.nn.Conv2d(1, 2, 3)"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [str(tmp_path / "site" / "tritonconv" / "__init__.py"), tritonconv.__version__]
