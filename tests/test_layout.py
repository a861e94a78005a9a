"""The shape of the project: layers hold, the top level stays what it is, the lock fits, nothing names a machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fp8bench import calibrated, causes
from fp8bench.config import Config

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDERS = {"ci", "csrc", "dags", "docs", "fp8bench", "templates", "tests"}
FILES = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml", "requirements.lock"}
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name]


def locked() -> dict[str, set[str]]:
    """Package -> versions in the lock."""
    found: dict[str, set[str]] = {}
    for line in (CHECKOUT / "requirements.lock").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)", line):
            found.setdefault(match[1].lower(), set()).add(match[2])
    return found


def lint_imports(directory: Path) -> str:
    """What import-linter says about the package in `directory`, by this project's contracts."""
    script = (
        "from importlinter.cli import lint_imports\n"
        f"lint_imports(no_cache=True, config_filename={str(CHECKOUT / 'pyproject.toml')!r})"
    )
    environment = os.environ | {"PYTHONPATH": str(directory), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_layering_contracts_hold() -> None:
    assert re.search(r"Contracts: \d+ kept, 0 broken", lint_imports(CHECKOUT))


def test_a_broken_layer_is_seen(tmp_path: Path) -> None:
    package = shutil.copytree(
        CHECKOUT / "fp8bench", tmp_path / "fp8bench", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (package / "stats.py").open("a") as file:
        file.write("\nimport fp8bench.records\n")
    said = lint_imports(tmp_path)
    assert "Statistics know numbers, not what they mean BROKEN" in said
    assert re.search(r"Contracts: \d+ kept, 1 broken", said)


def test_top_level_holds_what_it_should() -> None:
    folders = {name.split("/")[0] for name in tracked() if "/" in name and not name.startswith(".")}
    files = {name for name in tracked() if "/" not in name and not name.startswith(".")}
    assert folders == FOLDERS
    assert files == FILES


def test_scripts_can_be_run() -> None:
    for name in (".ci/run", "ci/setup", "ci/lock"):
        assert os.access(CHECKOUT / name, os.X_OK), name
        assert (CHECKOUT / name).read_text().startswith("#!"), name


def test_lock_holds_every_dependency() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + [
        entry for name, extra in extras.items() if name not in ("nvcc", "fleet") for entry in extra
    ]
    names = {re.split(r"[\[>=<~! ;]", entry, maxsplit=1)[0].lower() for entry in wanted}
    assert names - set(locked()) == set()


def test_lock_leaves_the_machine_its_choices() -> None:
    lock = locked()
    assert lock["torch"] == {"2.13.0"}
    assert {name for name in lock if name.startswith(("triton", "cuda-", "nvidia-"))} == {"nvidia-ml-py"}
    text = (CHECKOUT / "requirements.lock").read_text()
    assert not re.search(r"file:|/(home|root|opt|tmp|work)/|--(find-links|index|extra-index)|==[^ ;]*\+", text)


def test_actions_are_pinned() -> None:
    used = [
        line.split("uses:")[1].strip()
        for path in (CHECKOUT / ".github" / "workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert used
    for action in used:
        assert re.search(r"@(v\d+\.\d+\.\d+|[0-9a-f]{40}( #.*)?)$", action), action


def test_the_scheduled_night_hands_on_what_later_nights_read_whatever_it_found() -> None:
    """Its night step ends with 1, 2 or 3 on a finding, and the cache must be saved all the same."""
    job = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "nightly.yml").read_text())["jobs"]["night"]
    steps = {step["uses"].partition("@")[0]: step for step in job["steps"] if "uses" in step}
    assert "actions/cache" not in steps  # it saves after a green job only
    restored, saved = steps["actions/cache/restore"], steps["actions/cache/save"]
    assert saved["if"].startswith("always() && ")
    assert saved["with"]["path"] == restored["with"]["path"] == "${{ env.HANDED_ON }}"
    config = Config(home=Path(".fp8bench"))
    read = {config.runs_dir, config.builds_dir, causes.path_of(config.home), calibrated.path_of(config.home).parent}
    read |= {config.home / name for name in ("mlflow.db", "mlflow-artifacts")}
    assert {Path(name) for name in job["env"]["HANDED_ON"].split()} == read
