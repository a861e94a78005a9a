"""Every hour: logs and mails the nights that MLflow or the mail host did not take, by `fp8bench tell`.

Nights with nothing left to tell are not touched, so most runs do nothing.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowFailException

from fp8bench import config

SETTINGS = config.load().airflow


@task(execution_timeout=timedelta(minutes=30), retries=0, queue=SETTINGS.control_queue)
def tell() -> None:
    """Run `fp8bench tell`; red while something could not be told."""
    done = subprocess.run([sys.executable, "-m", "fp8bench", "tell"], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    if done.returncode:
        raise AirflowFailException((done.stdout.strip() or done.stderr.strip()).splitlines()[-1])


@dag(
    dag_id="fp8bench_tell",
    dag_display_name="fp8bench: what is left to tell",
    description="Logs and mails nights that could not be told in time",
    doc_md=__doc__,
    schedule="30 * * * *" if SETTINGS.schedule else None,
    catchup=False,
    max_active_runs=1,
    tags=["fp8bench"],
    default_args={"owner": "fp8bench"},
)
def fp8bench_tell() -> None:
    tell()


fp8bench_tell()
