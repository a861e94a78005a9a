"""fp8bench inside Airflow's pages: a tab with the report on every run, one with what is open, the page over all nights.

Airflow finds it where `AIRFLOW__CORE__PLUGINS_FOLDER` names this folder; the API server serves the pages that lie in
fp8bench's home directory. Whoever may read the DAG may read them. What they hold comes from commits and compilers, so
they may run the report's own script and nothing else, and send nothing anywhere.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse

from fp8bench import config, paths, records
from fp8bench.rundir import RunDir

DAG_ID = paths.NIGHTLY_DAG
PREFIX = "/fp8bench"
NO_NIGHT = f"The runs of this DAG measure nothing: look at those of {DAG_ID}."
CONFIG = config.load()


def _policy() -> str:
    """A content security policy that knows the report's script by its hash."""
    script = "\n" + (paths.TEMPLATES / "report" / "script.js").read_text()
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = ("default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{known}'", "img-src data:")
    return "; ".join((*rules, "frame-ancestors 'self'", "base-uri 'none'", "form-action 'none'"))


HEADERS = {"Content-Security-Policy": _policy(), "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def reader(user: GetUserDep) -> None:
    """Refuses whoever may not read the DAG; without a login, Airflow has refused already."""
    details = DagDetails(id=DAG_ID)
    if not get_auth_manager().is_authorized_dag(method="GET", details=details, user=user):
        raise HTTPException(403, f"You may not read the DAG {DAG_ID}, so not its reports either.")


app = FastAPI(title="fp8bench", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(reader)])


def _page(path: Path, missing: str) -> HTMLResponse:
    """The page at `path`, or one that says what is missing."""
    if path.suffix == ".html" and path.is_file():
        return HTMLResponse(path.read_text(encoding="utf-8"), headers=HEADERS)
    page = f'<!DOCTYPE html><html lang="en"><title>fp8bench</title><body style="font:15px sans-serif"><p>{missing}</p>'
    return HTMLResponse(page, status_code=404, headers=HEADERS)


@app.get("/index.html")
def index() -> HTMLResponse:
    """The page over all nights; its links lead to `/runs/...` below."""
    return _page(CONFIG.home / "index.html", "No night has been rendered yet.")


@app.get("/runs/{name}/report.html")
def of_directory(name: str) -> HTMLResponse:
    """The report of a run directory, by its name."""
    if name in (".", "..") or "/" in name:
        raise HTTPException(404, "There is no such night.")
    return _page(RunDir(CONFIG.runs_dir / name).report, "This night has no report (yet).")


def _night(dag_id: str, run_id: str) -> RunDir | None:
    """The night of a DAG run; None of a DAG without nights: it shows the same tabs, and its runs may bear their ids."""
    return RunDir(paths.night_directory(CONFIG.runs_dir, dag_id, run_id)) if dag_id.startswith(DAG_ID) else None


@app.get("/report/{dag_id}/{run_id:path}")
def of_run(dag_id: str, run_id: str) -> HTMLResponse:
    """The report of a DAG run."""
    if (run := _night(dag_id, run_id)) is None:
        return _page(Path(), NO_NIGHT)
    return _page(
        run.report, "This run has no report yet: the task <b>render</b> writes it, a few minutes before the end."
    )


@app.get("/mlflow/{dag_id}/{run_id:path}", response_model=None)
def in_mlflow(dag_id: str, run_id: str) -> HTMLResponse | RedirectResponse:
    """The way to a DAG run's page in MLflow."""
    if (run := _night(dag_id, run_id)) is None:
        return _page(Path(), NO_NIGHT)
    link = records.read(records.Logged, run.mlflow).links.get("night", "") if run.mlflow.is_file() else ""
    if link.startswith(("http://", "https://")):
        return RedirectResponse(link, headers=HEADERS)
    return _page(
        run.mlflow, "This run is not in MLflow (yet), or MLflow has no known web address: set <b>mlflow.ui_url</b>."
    )


class Fp8benchPlugin(AirflowPlugin):
    name = "fp8bench"
    fastapi_apps = [{"app": app, "url_prefix": PREFIX, "name": "fp8bench"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "FP8 report",
            "href": f"{PREFIX}/report/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "fp8bench-report",
        },
        {"name": "MLflow", "href": f"{PREFIX}/mlflow/{{DAG_ID}}/{{RUN_ID}}", "destination": "dag_run"},
        {"name": "FP8 nights", "href": f"{PREFIX}/index.html", "destination": "nav", "url_route": "fp8bench-nights"},
    ]
