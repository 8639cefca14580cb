"""The peers' own environment under ``.bench/``: the ``bench`` extra's pins, over the project's packages and never among them.

A ``.pth`` file shows it the packages of the environment that runs the benchmarks, so torch and Pillow are the project's own.
What the extra names is installed without dependencies: those that are missing there are named in it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".bench" / "data"


def pins() -> list[str]:
    """The ``bench`` extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return sorted(project["optional-dependencies"]["bench"])


def peers_python() -> str:
    """The environment's interpreter; it is made where it is missing or of other pins.

    Raises:
        RuntimeError: it cannot be made, with what pip says.
    """
    python, stamp = FOLDER / "bin" / "python", FOLDER / "installed.txt"
    wanted = "\n".join([sys.executable, *pins()])
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(python)
    venv.create(FOLDER, clear=True, with_pip=False)
    packages = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    (packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", *pins()]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip could not install {', '.join(pins())}: {done.stderr.strip()[-500:]}")
    shutil.rmtree(packages / "tests", ignore_errors=True)  # a wheel brings one along, which would hide ours
    stamp.write_text(wanted)
    return str(python)
