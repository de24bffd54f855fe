"""The types of the SDK, checked by TypeScript: the sources, their declaration, and what a page may write.

`deno check` has the compiler, and asks no network for anything.
"""

import json
import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

from deno import find_deno_bin

from gateway import web
from gateway.web.scripts import modules

SDK = Path(str(files(web).joinpath("sdk")))
ELEMENTS = json.loads((SDK / "custom-elements.json").read_text())["modules"][0]["declarations"]
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


def check(folder: Path, *sources: Path) -> tuple[int, str]:
    """Check sources, and return the exit code and what was said."""
    config = folder / "deno.json"
    config.write_text(json.dumps({"compilerOptions": OPTIONS}))
    command = [find_deno_bin(), "check", "--no-remote", "--no-npm", f"--config={config}", *map(str, sources)]
    quiet = {"NO_COLOR": "1", "DENO_DIR": str(folder / "deno"), "DENO_NO_UPDATE_CHECK": "1"}
    ended = subprocess.run(
        command, env=os.environ | quiet, timeout=DEADLINE, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_the_sources_their_declaration_and_a_sample_page_pass_the_type_check(tmp_path: Path) -> None:
    code, said = check(
        tmp_path,
        *(SDK / name for name in modules(SDK, "notifications.js")),
        SDK / "notifications.d.ts",
        SDK / "types.d.ts",
        *SAMPLES.glob("*.ts"),
    )
    assert code == 0, said


def test_each_forbidden_use_of_the_sdk_is_a_type_error(tmp_path: Path) -> None:
    usage = (SAMPLES / "usage.ts").read_text()
    wrong = usage.count("// @ts-expect-error")
    sdk = tmp_path / "sdk"
    shutil.copytree(SDK, sdk)
    sample = tmp_path / "misuse.ts"
    text = usage.replace("// @ts-expect-error", "// wrong").replace("../../../../gateway/web/sdk", "./sdk")
    sample.write_text(text)
    code, said = check(tmp_path, sample)
    assert code != 0
    assert f"Found {wrong} errors." in said, said


def test_a_template_may_set_exactly_the_attributes_and_properties_of_the_manifest(tmp_path: Path) -> None:
    lines = ["type Same<A, B> = [A, B] extends [B, A] ? true : false;"]
    for element in ELEMENTS:
        settable = [one for one in element["members"] if one["kind"] == "field" and not one.get("readonly")]
        names = " | ".join(f"'{one['name']}'" for one in [*element["attributes"], *settable])
        declared = f"import('{SDK.as_uri()}/frameworks.d.ts').{element['name']}Attributes"
        lines.append(f"export const of{element['name']}: Same<keyof {declared}, {names}> = true;")
    sample = tmp_path / "attributes.ts"
    sample.write_text("\n".join(lines))
    code, said = check(tmp_path, sample)
    assert code == 0, said
