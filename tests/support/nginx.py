"""nginx with the configuration of docs/operations/nginx.conf, in front of a gateway of the tests.

It listens without TLS on a free port, has its files in a folder of its own, and is not root.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.postgres import UNPRIVILEGED, free_port
from tests.support.waiting import until

DOCUMENTED = Path(__file__).parents[2] / "docs" / "operations" / "nginx.conf"

_MAIN = """
daemon off;
pid {home}/pid;
error_log {home}/error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
{documented}
}}
"""


def found_nginx() -> str:
    """Return the path of nginx. Without one the test skips and says what to install; with `CI`, it fails."""
    path = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        message = "there is no nginx to test with; install it, on Debian with: apt-get install nginx-light"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def configuration(gateway: int, port: int, home: Path, documented: str) -> str:
    """Return a documented configuration with this machine's paths and ports, and without TLS."""
    text = documented
    text = re.sub(r"\nserver \{\n    listen 80;.*?\n\}\n", "\n", text, count=1, flags=re.DOTALL)
    text = re.sub(r"\n    (?:listen \[|ssl_)[^\n]*", "", text)
    replaced = {
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port};",
        "127.0.0.1:8000": f"127.0.0.1:{gateway}",
        "/var/log/nginx/": f"{home}/",
    }
    for theirs, ours in replaced.items():
        assert text.count(theirs) > 0, theirs
        text = text.replace(theirs, ours)
    return _MAIN.format(home=home, documented=text)


def _start(program: str, home: Path) -> subprocess.Popen[bytes]:
    user = None
    if os.geteuid() == 0:
        user = UNPRIVILEGED
        shutil.chown(home, user)
    command = [program, "-p", str(home), "-c", str(home / "nginx.conf"), "-e", str(home / "error.log")]
    with (home / "output").open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, user=user)


@asynccontextmanager
async def nginx_before(
    gateway: int, port: int | None = None, change: Callable[[str], str] = str
) -> AsyncIterator[int]:
    """Run nginx before the gateway on this port, and yield its own. Nothing of it is left afterwards.

    `change` is given the documented configuration, and returns the one to run with.
    """
    program, port = found_nginx(), port or free_port()
    with tempfile.TemporaryDirectory(prefix="nginx-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        (home / "nginx.conf").write_text(configuration(gateway, port, home, change(DOCUMENTED.read_text())))
        process = _start(program, home)
        try:
            await until(lambda: (home / "pid").exists() or process.poll() is not None, "nginx has started")
            assert process.poll() is None, (home / "output").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(10)
