"""What is in the repository is the project, and nothing of the machine it was made on."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Spelt so that this file does not hold what it looks for.
REGISTRIES = re.compile(r"py[p]i|python[h]osted|files\.[p]ython|registry\.npm[j]s", re.IGNORECASE)
MACHINE_PATHS = re.compile(r"/wor[k]/|/hom[e]/\w+/|/roo[t]/|/User[s]/\w+/")


def tracked_files() -> list[Path]:
    """Return what git would commit: tracked files, and new ones that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    names = {name for name in listed.stdout.split("\0") if name}
    return sorted(file for name in names if (file := ROOT / name).is_file())


def text_of(file: Path) -> str:
    return file.read_text(errors="replace")


def test_the_list_of_tracked_files_is_not_empty() -> None:
    assert ROOT / "pyproject.toml" in tracked_files()


@pytest.mark.parametrize("pattern", [REGISTRIES, MACHINE_PATHS], ids=["registries", "machine paths"])
def test_no_file_names_a_package_registry_or_a_local_path(pattern: re.Pattern[str]) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for file in tracked_files()
        for number, line in enumerate(text_of(file).splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_no_lock_file_and_no_generated_file_is_tracked() -> None:
    made = re.compile(
        r"(^|/)(uv\.lock|__pycache__|\.env|\.coverage.*|\.venv|\.hypothesis)(/|$)|\.(db|pyc|log)$"
    )
    assert [str(file) for file in tracked_files() if made.search(str(file.relative_to(ROOT)))] == []


def test_every_text_file_ends_with_one_line_break() -> None:
    texts = [
        file
        for file in tracked_files()
        # Swagger UI's files are shipped as they were released.
        if file.suffix in {".py", ".md", ".toml", ".js", ".html", ".css"}
        and not file.name.startswith("swagger-ui")
    ]
    wrong = [str(file) for file in texts if (text := text_of(file)) and not re.search(r"[^\n]\n\Z", text)]
    assert wrong == []
