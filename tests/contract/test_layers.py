"""Who may import whom: `make check` holds the layers of pyproject.toml, and this shows that it would notice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "services.orders": "services.judging.judge",
    "services.judging": "services.kafka.consumer",
    "services.eventstore": "services.kafka.topics",
    "services.kafka": "services.settings",
    "services.sealing": "services.commands.role",
    "services.settings": "services.audit.findings",
    "services.audit": "services.relay.role",
    "projections": "services.http.gateway",
    "services.relay": "services.timer.role",
    "services.timer": "services.runtime.roles",
    "services.telemetry": "services.eventstore.database",
}
"""One import for each layer that it must not have."""


def test_an_import_of_what_is_above_is_noticed(tmp_path: Path):
    for name in ("services", "projections", "contracts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for importer, imported in FORBIDDEN.items():
        folder = tmp_path / importer.replace(".", "/")
        file = folder / "broken.py" if folder.is_dir() else folder.with_suffix(".py")
        file.write_text(f"import {imported}\n")
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{tmp_path / 'contracts'}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 1
    noticed = " ".join(linted.stdout.split())
    for importer, imported in FORBIDDEN.items():
        broken = importer if importer == "services.settings" else f"{importer}.broken"
        assert f"- {broken} -> {imported}" in noticed, f"{importer} may import {imported}"
