"""Gives every commit that touches kernels a night of its own: finds them, and triggers `fp8bench_nightly` for each.

* On a schedule (`airflow.commits_schedule`, off by default) these are the commits that came since the last nights.
* Triggered by hand with a range `A..B`, those of the range, each against A or the baseline that is given: a backfill.
* A night's run id is made of its commits, so one that is there already is not triggered again. One that ended without
  a verdict is, under another id (`...-try-2`), and at most twice. Nights wait for each other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowException

from fp8bench import config

CONFIG = config.load()
SETTINGS = CONFIG.airflow
NIGHTLY = "fp8bench_nightly"
PATTERN = r"^(?!-)[\w./:@~^+%-]{1,200}$(?!\n)"


def _text(default: str | None, title: str, description: str) -> Param:
    if default and not re.search(PATTERN, default):  # a setting of other characters is left to the command
        default, description = None, f"{description} Empty: what the settings say."
    kind = "string" if default else ["null", "string"]
    return Param(default or None, type=kind, title=title, description=description, pattern=PATTERN)


PARAMS = {
    "repo": _text(CONFIG.offered_repo, "Repository", "URL or path of the git repository. Empty: that of the settings."),
    "commits": _text(None, "Commits", "A range A..B. Empty: those that came since the last nights."),
    "baseline": _text(None, "Baseline", "What to compare with. Empty: A of the range, or the accepted baseline."),
    "suite": _text(CONFIG.suite, "Suite", "smoke, reference, or the path of a suite's TOML file."),
}


@task(execution_timeout=timedelta(minutes=30))
def find() -> list[dict[str, Any]]:
    """The nights to trigger: run id and parameters of each."""
    params = get_current_context()["params"]
    given = [f"--{name}={params[name]}" for name in ("repo", "commits", "baseline") if params[name]]
    command = [sys.executable, "-m", "fp8bench", "commits", "--json", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AirflowException((done.stderr.strip().splitlines() or ["fp8bench commits said nothing"])[-1])
    wanted = [(_next(entry.pop("runs")), entry) for entry in json.loads(done.stdout)]
    return [{"trigger_run_id": run, "conf": entry | {"suite": params["suite"]}} for run, entry in wanted if run]


def _next(runs: list[str]) -> str:
    """The first of `runs` that was not triggered yet; "" while the one before it goes on, and when none is left."""
    ti = get_current_context()["ti"]
    for run_id in runs:
        if not ti.get_dr_count(NIGHTLY, run_ids=[run_id]):
            return run_id
        if ti.get_dr_count(NIGHTLY, run_ids=[run_id], states=["queued", "running"]):
            return ""
    return ""


@dag(
    dag_id="fp8bench_commits",
    dag_display_name="fp8bench: a night a commit",
    description="Triggers a night for every commit that touches kernels",
    doc_md=__doc__,
    schedule=SETTINGS.commits_schedule or None,
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    tags=["fp8bench"],
    default_args={
        "owner": "fp8bench",
        "queue": SETTINGS.control_queue,
        "retries": SETTINGS.retries,
        "retry_delay": timedelta(seconds=SETTINGS.retry_delay_s),
    },
)
def fp8bench_commits() -> None:
    TriggerDagRunOperator.partial(
        task_id="trigger",
        trigger_dag_id=NIGHTLY,
        skip_when_already_exists=True,
        openlineage_inject_parent_info=False,
        doc_md="Trigger the night of one commit, unless it was triggered before.",
        map_index_template="{{ task.trigger_run_id }}",
        execution_timeout=timedelta(minutes=5),
    ).expand_kwargs(find())


fp8bench_commits()
