"""`resolution-contracts` as another team gets it: a wheel, in an environment that has nothing else."""

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
USE = """
from resolution_contracts import Accept, CommandEnvelope
print(CommandEnvelope.of("order-7", Accept(actor="ann", dispute_id="d"), source="/x").name)
try:
    import resolution_contracts.client
except ImportError as error:
    print(error)
"""
WRONG = """
from resolution_contracts import Accept
Accept(actor=7, dispute="d")
"""


async def test_the_wheel_is_typed_and_needs_only_pydantic(tmp_path: Path):
    await run(UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT / "contracts")
    wheel = tmp_path / f"resolution_contracts-{version('resolution-contracts')}-py3-none-any.whl"
    assert "resolution_contracts/py.typed" in ZipFile(wheel).namelist()

    await run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    await run(UV, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "requirements.lock", wheel)
    said = (await run(python, "-c", USE)).splitlines()
    assert said[0] == "Accept"
    assert "resolution-contracts[kafka]" in said[1]

    (tmp_path / "wrong.py").write_text(WRONG)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path / "cache"]
    found = await run(*mypy, tmp_path / "wrong.py", code=1)
    assert 'Argument "actor" to "Accept" has incompatible type "int"' in found


async def run(*command: object, code: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd="/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == code, out.decode()
    return out.decode()
