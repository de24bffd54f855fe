"""The examples with wrong settings: one line at once, which names the variable and not its value."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable

from tests.docs.test_docs import ROOT, blocks, text_of

URL = "GATEWAY_URL: set it to a URL such as http://127.0.0.1:8000\n"
KEY = "GATEWAY_KEY: set it to the API key of a service, ngk_…\n"
TOKEN = "GATEWAY_TOKEN: set it to a user's access token: gateway token ada\n"
SECRET = "ngk_secret"
GOOD = {"GATEWAY_URL": "http://127.0.0.1:1", "GATEWAY_KEY": SECRET, "GATEWAY_TOKEN": SECRET}

PROGRAMS = {
    "backend.md.py": "\n".join(blocks(text_of("docs/backend.md"), "python")),
    "backend.md.mjs": "\n".join(blocks(text_of("docs/backend.md"), "js")),
    "auth.md.py": "\n".join(blocks(text_of("docs/auth.md"), "python")),
    "auth.md.mjs": blocks(text_of("docs/auth.md"), "js")[0],
    "backend.py": (ROOT / "docs/examples/backend.py").read_text(),
    "follow.py": (ROOT / "docs/examples/follow.py").read_text(),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_with_a_wrong_setting_names_it_in_one_line(name: str, tmp_path: Path) -> None:
    variable, said = ("GATEWAY_TOKEN", TOKEN) if name == "follow.py" else ("GATEWAY_KEY", KEY)
    (tmp_path / name).write_text(PROGRAMS[name])
    runner = compute_driver_executable()[0] if name.endswith(".mjs") else sys.executable
    cases = [
        ({"GATEWAY_URL": "127.0.0.1:8000"}, URL),
        ({"GATEWAY_URL": ""}, URL),
        ({variable: ""}, said),
        ({variable: f"{SECRET}\n{SECRET}"}, said),
    ]
    for wrong, expected in cases:
        done = subprocess.run(
            [runner, tmp_path / name],
            env=os.environ | GOOD | wrong,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
