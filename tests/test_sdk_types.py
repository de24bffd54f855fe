"""The types of the SDK, checked by TypeScript: the sources, their declaration, and what a page may write.

`deno check` has the compiler, and asks no network for anything.
"""

import asyncio
import json
import os
import shutil
from importlib.resources import files
from pathlib import Path

from deno import find_deno_bin

from gateway import web

SDK = Path(str(files(web).joinpath("sdk")))
SAMPLES = Path(__file__).parent / "sdk" / "types"
OPTIONS = {
    "checkJs": True,
    "strict": True,
    # What one module hands to another is typed where its shape matters; a callback's argument need not be.
    "noImplicitAny": False,
    "lib": ["esnext", "dom", "dom.iterable", "dom.asynciterable"],
}
DEADLINE = 120
"""Seconds for one check; it takes a few."""


async def check(folder: Path, *sources: Path) -> tuple[int, str]:
    """Check sources, and return the exit code and what was said."""
    config = folder / "deno.json"
    config.write_text(json.dumps({"compilerOptions": OPTIONS}))
    deno = await asyncio.create_subprocess_exec(
        find_deno_bin(),
        "check",
        "--no-remote",
        "--no-npm",
        f"--config={config}",
        *map(str, sources),
        env={**os.environ, "NO_COLOR": "1", "DENO_DIR": str(folder / "deno"), "DENO_NO_UPDATE_CHECK": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(deno.communicate(), DEADLINE)
    assert deno.returncode is not None
    return deno.returncode, said.decode()


async def test_the_sources_their_declaration_and_what_a_page_writes_agree(tmp_path: Path) -> None:
    code, said = await check(tmp_path, *SDK.glob("*.js"), *SDK.glob("*.d.ts"), *SAMPLES.glob("*.ts"))
    assert code == 0, said


async def test_what_a_page_may_not_write_is_an_error_each_time(tmp_path: Path) -> None:
    usage = (SAMPLES / "usage.ts").read_text()
    wrong = usage.count("// @ts-expect-error")
    sdk = tmp_path / "sdk"
    shutil.copytree(SDK, sdk)
    sample = tmp_path / "misuse.ts"
    text = usage.replace("// @ts-expect-error", "// wrong").replace("../../../gateway/web/sdk", "./sdk")
    sample.write_text(text)
    code, said = await check(tmp_path, sample)
    assert code != 0
    assert f"Found {wrong} errors." in said, said
