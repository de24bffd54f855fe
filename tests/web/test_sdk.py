"""The client of the SDK: its rules, with a browser and a gateway in memory, and what a page has to load.

The tests themselves are in `tests/web/sdk/`, for the runner that Node has. Node comes with Playwright.
"""

import gzip
import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from playwright._impl._driver import compute_driver_executable

from gateway import __version__, web
from gateway.web.renaming import rename, tokens
from gateway.web.scripts import bundle, compact

SUITES = sorted((Path(__file__).parent / "sdk").glob("*.test.js"))
SDK = files(web).joinpath("sdk")
NODE = compute_driver_executable()[0]
DEADLINE = 120
"""Seconds for one file of tests; it takes one or two."""


def run_node(*arguments: str) -> tuple[int, str]:
    """Run Node, and return its exit code and all that it said."""
    command = [NODE, "--disable-warning=ExperimentalWarning", *arguments]
    ended = subprocess.run(command, timeout=DEADLINE, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name.removesuffix(".test.js"))
def test_the_node_tests_of_the_client_pass(suite: Path) -> None:
    code, said = run_node("--test", "--test-reporter=spec", str(suite))
    _, _, failures = said.partition("failing tests:")
    assert code == 0, failures or said
    counted = re.search(r"^\S tests (\d+)$", said, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) >= len(re.findall(r"^\s*test\(", suite.read_text(), re.MULTILINE)) > 5


def test_the_client_is_loaded_as_one_file_of_at_most_15_kib(tmp_path: Path) -> None:
    script = bundle(SDK, "notifications.js")
    assert len(gzip.compress(script.encode(), 9)) <= 15 * 1024
    file = tmp_path / "notifications.mjs"
    file.write_text(script)
    code, said = run_node(
        "--input-type=module",
        "--eval",
        f"import * as sdk from {json.dumps(file.as_uri())};"
        "const client = new sdk.NotificationClient({ getToken() {}, url: 'http://gateway' });"
        "console.log(Object.keys(sdk).join(), client.state);",
    )
    assert (code, said) == (0, "NotificationClient idle\n")


def test_the_components_can_be_imported_without_a_dom() -> None:
    entry = Path(str(SDK)).joinpath("components.js").as_uri()
    code, said = run_node(
        "--input-type=module",
        "--eval",
        f"const sdk = await import({json.dumps(entry)}); console.log(Object.keys(sdk).sort().join());",
    )
    names = "NotificationBell,NotificationClient,NotificationInbox,NotificationPreferences,NotificationToasts"
    assert (code, said) == (0, f"{names}\n")


PACKAGE = json.loads(SDK.joinpath("package.json").read_text("utf-8"))


def imports(name: str) -> list[str]:
    """Return what a file of the SDK imports, as it is written."""
    return re.findall(r"\b(?:from|import)\s*\(?\s*'([^']+)'", SDK.joinpath(name).read_text("utf-8"))


def test_the_client_and_the_elements_have_no_dependencies_and_the_hooks_only_react() -> None:
    assert {name for name in PACKAGE if "ependencies" in name} == {"peerDependencies", "peerDependenciesMeta"}
    assert PACKAGE["peerDependencies"] == {"react": ">=18"}
    assert PACKAGE["peerDependenciesMeta"] == {"react": {"optional": True}}
    assert PACKAGE["version"] == __version__
    for file in SDK.iterdir():
        if file.name.endswith(".js") and file.name != "react.js":
            assert all(SDK.joinpath(name.removeprefix("./")).is_file() for name in imports(file.name)), (
                file.name
            )
    assert imports("react.js") == ["react"]


def test_every_package_entry_has_a_script_and_types_that_declare_its_exports() -> None:
    entries = [entry for entry in PACKAGE["exports"].values() if isinstance(entry, dict)]
    assert {entry["default"] for entry in entries} == {"./notifications.js", "./components.js", "./react.js"}
    exported = re.compile(
        r"^export (?:declare )?(?:class|function) (\w+)|^export \{ ([\w, ]+) \}", re.MULTILINE
    )
    for entry in entries:
        script, types = (
            {
                name
                for found in exported.findall(SDK.joinpath(entry[kind]).read_text("utf-8"))
                for name in ",".join(filter(None, found)).replace(" ", "").split(",")
            }
            for kind in ("default", "types")
        )
        assert script, entry
        assert script == types, entry
        assert entry["types"].removesuffix(".d.ts") == entry["default"].removesuffix(".js")


def test_an_element_observes_only_attributes_in_the_manifest() -> None:
    entry = Path(str(SDK)).joinpath("components.js").as_uri()
    elements = ("NotificationBell", "NotificationInbox", "NotificationPreferences", "NotificationToasts")
    code, said = run_node(
        "--input-type=module",
        "--eval",
        f"const sdk = await import({json.dumps(entry)});"
        f"console.log(JSON.stringify({json.dumps(elements)}.map((name) => sdk[name].observedAttributes)));",
    )
    assert code == 0, said
    manifest = json.loads(SDK.joinpath("custom-elements.json").read_text("utf-8"))["modules"][0][
        "declarations"
    ]
    named = {one["name"]: {attribute["name"] for attribute in one["attributes"]} for one in manifest}
    observed = dict(zip(elements, json.loads(said), strict=True))
    assert all("theme" in each for each in observed.values())
    assert [(name, one) for name, each in observed.items() for one in each if one not in named[name]] == []


@pytest.fixture
def http() -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(web.router)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


MEDIA_TYPES = {"js": "text/javascript", "ts": "application/typescript", "json": "application/json"}


@pytest.mark.parametrize("file", [file.name for file in SDK.iterdir()])
async def test_every_file_is_served_to_pages_of_any_origin(http: httpx.AsyncClient, file: str) -> None:
    latest = await http.get(f"/sdk/{file}")
    versioned = await http.get(f"/sdk/{__version__}/{file}")
    assert latest.headers["cache-control"] == "no-cache"
    assert versioned.headers["cache-control"] == "public, max-age=31536000, immutable"
    for answer in (latest, versioned):
        assert answer.status_code == 200
        assert answer.content == latest.content
        media_type = MEDIA_TYPES[file.rpartition(".")[2]]
        assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
    again = await http.get(f"/sdk/{file}", headers={"If-None-Match": latest.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_other_versions_and_unknown_files_are_not_served(http: httpx.AsyncClient) -> None:
    for path in ("/sdk/", "/sdk/0.0.0/notifications.js", "/sdk/..%2Findex.html", "/sdk/nothing.js"):
        assert (await http.get(path)).status_code == 404, path


def test_served_scripts_are_the_source_without_comments_and_needless_whitespace() -> None:
    source = "/** Says. */\nexport function say() {\n  // Why.\n  return 'http://x'; // aside\n}\n"
    assert compact(source) == "export function say(){return'http://x'}"


def test_served_scripts_have_short_private_names_and_styles_without_needless_whitespace() -> None:
    source = (
        "class A {\n  #count = 1;\n  #list;\n  get count() { return this.#count + this.#count; }\n"
        "  find() { return this.#list.querySelector('#list'); }\n}\n"
        "const b = sheet(`\n.x > a, b {\n  color: #fff; margin: var(--_gap);\n}\n.y :hover { top: 0; }\n`);\n"
    )
    assert compact(source) == (
        "class A{#a=1;#list;get count(){return this.#a+this.#a}"
        "find(){return this.#list.querySelector('#list')}}"
        "let b=sheet(`.x>a,b{color:#fff;margin:var(--a)}.y :hover{top:0}`);"
    )


def test_served_scripts_have_short_names_of_constants_and_functions_that_are_no_others() -> None:
    source = (
        "const LIMIT = 3;\nconst KINDS = { a: 'KINDS' };\nexport const OPEN = [...LIMITS, LIMIT];\n"
        "const LIMITS = [`${LIMIT}px`];\n"
        "function double(A) { return A * LIMIT; }\nfunction name() {}\nfunction say() {}\n"
        "export function whole({ name }) { return say && double(double(name)); }\n"
        "text.double = text.LIMITLESS(KINDS);\nasync function wait() { await wait(); }\n"
    )
    assert compact(source) == (
        "let B=3;let KINDS={a:'KINDS'};export let OPEN=[...C,B];let C=[`${B}px`];"
        "function double(A){return A*B}function name(){}function say(){}"
        "export function whole({name}){return say&&double(double(name))}"
        "text.double=text.LIMITLESS(KINDS);async function D(){await D()}"
    )


def test_served_scripts_have_short_keywords_but_the_same_texts() -> None:
    source = (
        "const all = { a: true, b: [false, true], c: 'const true', d: say(`true`) };\n"
        "for (const [a] of all) a.true = null;\n"
    )
    assert compact(source) == (
        "let all={a:!0,b:[!1,!0],c:'const true',d:say(`true`)};for(let[a]of all)a.true=null;"
    )


def test_a_bundle_has_short_names_of_variables_that_are_no_properties_globals_or_texts() -> None:
    source = (
        "let plain=1,shared=2,location=3;let used=(given,event)=>plain+given+`plain ${plain}`;"
        "class A{method(method){if(this.shared){used(plain,...shared)}}static one=plain}"
        "let map={key:plain,shared,plain_:'plain',other(){}};let key=/plain/;let other=x?plain:map;"
    )
    assert rename(source, iter("abcdefg")) == (
        "let a=1,shared=2,location=3;let used=(b,event)=>a+b+`plain ${a}`;"
        "class A{method(method){if(this.shared){used(a,...shared)}}static one=a}"
        "let c={key:a,shared,plain_:'plain',other(){}};let key=/plain/;let other=x?a:c;"
    )
    assert "".join(token for token, _ in tokens(source)) == source


def test_no_template_stands_in_another_where_the_minifier_takes_its_text_for_code() -> None:
    sources = {file.name: file.read_text("utf-8") for file in SDK.iterdir() if file.name.endswith(".js")}
    assert [name for name, text in sources.items() if re.search(r"`[^`\n]*\$\{[^}`\n]*`", text)] == []


def test_a_compact_style_sheet_means_the_same() -> None:
    source = """export const A = sheet(`
:host .a, .b > c { margin: 0 auto; width: calc(100% - 24px); inset: var(--x, auto 1px); }
.d :hover:not(.e) { --_a: light-dark(#fff, #000); content: ""; }
@media (pointer: coarse) { .f { color: red; } }
`);
const text = `a: b; c`;"""
    assert compact(source) == (
        "export let A=sheet(`"
        ":host .a,.b>c{margin:0 auto;width:calc(100% - 24px);inset:var(--x,auto 1px)}"
        '.d :hover:not(.e){--a:light-dark(#fff,#000);content:""}'
        "@media (pointer:coarse){.f{color:red}}"
        "`);let text=`a: b; c`;"
    )
