"""A real nginx with the configuration that is shipped: Debian's, from `apt-get install nginx-light`."""

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

SHIPPED = Path("deploy/nginx")
_MAIN = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _site(name: str, port: int, service: str) -> str:
    """A shipped file, on a free port instead of HTTPS, before a service that listens elsewhere."""
    lines = (SHIPPED / name).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.strip().startswith("ssl_"))
    for shipped, here in (("listen 443 ssl", f"listen 127.0.0.1:{port}"), ("127.0.0.1:8080", urlsplit(service).netloc)):
        assert shipped in text
        text = text.replace(shipped, here)
    return text


@asynccontextmanager
async def nginx(name: str, service: str, port: int | None = None) -> AsyncIterator[str]:
    """Yields the URL of a running nginx. Skips the test if nginx is not installed."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.skip("nginx is missing: apt-get install nginx-light")
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="rc-nginx-") as folder:
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(_MAIN.format(folder=folder, site=_site(name, port, service)))
        process = await asyncio.create_subprocess_exec(program, "-p", folder, "-c", str(configuration))
        try:
            await _listens(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()


async def _listens(process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(20):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
    raise AssertionError("nginx refuses its configuration")
