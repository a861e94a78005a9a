"""Checks what people look at as browsers and screen readers see it: `python ci/check_pages.py`.

Renders the report of a night in every state, the page over all nights and every mail, and asks

* the Nu HTML checker whether they are valid,
* axe-core in a headless Chromium, wide and light, narrow and dark, whether everybody can read them,
* the browser whether anything is wider than the screen.

Needs java, node with npm, and Chromium; the checkers are installed below the home directory. Exits 1 on findings.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

from nights import STATES, SUITES, make_night  # noqa: E402

from fp8bench import alerts, config, report  # noqa: E402
from fp8bench.config import Config, MailSettings  # noqa: E402

CHECKERS = ("axe-core@4", "puppeteer-core@24", "vnu-jar@26")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Render, check, print what was found."""
    tools = _tools(config.load().home / "page-checkers")
    with tempfile.TemporaryDirectory(prefix="fp8bench-pages-") as folder:
        pages = _render(Path(folder))
        troubles = [*_invalid(tools, pages), *_inaccessible(tools, pages)]
    for trouble in troubles:
        print(trouble)
    print(f"{len(pages)} pages, {len(troubles)} findings")
    return 1 if troubles else 0


def _tools(folder: Path) -> Path:
    """The checkers' folder, filled at first use."""
    for program in ("java", "node", "npm"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not here: install it, or check on a machine that has it.")
    if not (folder / "node_modules" / "vnu-jar").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n')
        subprocess.run(["npm", "install", "--ignore-scripts", "--silent", *CHECKERS], cwd=folder, check=True)
    return folder


def _render(folder: Path) -> list[Path]:
    """The pages of nights in every state, one after the other in one home, and the mails that they send."""
    pages = []
    settings = Config(home=folder / "home", mail=MailSettings(to=("kernels@example.org",)))
    for suite in SUITES:
        for state in STATES:
            run_dir = make_night(settings.runs_dir / f"{suite}-{state}", state, suite=suite, config=settings)
            for path in alerts.compose(run_dir, settings):
                mail = folder / f"mail-{suite}-{state}-{path.stem}.html"
                mail.write_text(json.loads(path.read_text())["html"])
                pages.append(mail)
            page = folder / f"report-{suite}-{state}.html"
            page.write_text(report.render(run_dir, settings.home))
            pages.append(page)
    (folder / "index.html").write_text(report.render_index(settings.runs_dir))
    return [*pages, folder / "index.html"]


def _invalid(tools: Path, pages: list[Path]) -> list[str]:
    jar = next((tools / "node_modules" / "vnu-jar").rglob("vnu.jar"))
    command = ["java", "-jar", str(jar), "--stdout", "--format", "json", "--exit-zero-always", *map(str, pages)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [
        f"{Path(found['url']).name}: {found['type']}: {found['message']}"
        for found in json.loads(done.stdout)["messages"]
        if found["type"] != "info" or found.get("subType") == "warning"
    ]


def _inaccessible(tools: Path, pages: list[Path]) -> list[str]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser is here: install one of {', '.join(BROWSERS)}.")
    script = Path(__file__).with_name("axe.mjs")
    command = ["node", str(script), str(tools), browser, *map(str, pages)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [trouble for line in done.stdout.splitlines() for trouble in _troubles(json.loads(line))]


def _troubles(view: dict[str, Any]) -> list[str]:
    where = f"{Path(view['path']).name} at {view['width']} px, {view['scheme']}"
    wide = [f"{where}: {view['overflow']} px wider than the screen"] if view["overflow"] > 0 else []
    return wide + [
        f"{where}: {found['impact']}: {found['help']} ({found['count']}), e.g. {found['first']}"
        for found in view["found"]
    ]


if __name__ == "__main__":
    sys.exit(main())
