"""What keeps a service going between its nights.

* `fp8bench_tell`, every hour: logs and mails the nights that MLflow or the mail host did not take, by the SMTP
  connection `smtp_default` where there is one.
* `fp8bench_prune`, every week: removes old nights and unused builds, as the `[retention]` settings say.

Both do nothing where there is nothing to do, and are red while something could not be done. They run by themselves
only where the nights do (`airflow.schedule`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

from fp8bench import config

SETTINGS = config.load().airflow
COMMANDS = {  # a command of fp8bench: when, and what it does
    "tell": ("30 * * * *", "Log and mail nights that could not be told in time."),
    "prune": ("0 14 * * 0", "Remove old nights and unused builds."),
}


@task(execution_timeout=timedelta(hours=1), retries=0, queue=SETTINGS.control_queue)
def fp8bench(command: str) -> None:
    """Run `fp8bench COMMAND`; AirflowFailException with its last line when it could not do its work."""
    from airflow.sdk import Connection

    mail = config.through_connection(Connection.get, AirflowNotFoundException) if command == "tell" else {}
    done = subprocess.run(
        [sys.executable, "-m", "fp8bench", command],
        env=os.environ | mail,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    if done.returncode:
        raise AirflowFailException((done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1])


for _command, (_schedule, _what) in COMMANDS.items():
    with DAG(
        dag_id=f"fp8bench_{_command}",
        dag_display_name=f"fp8bench: {_command}",
        description=_what,
        doc_md=__doc__,
        schedule=_schedule if SETTINGS.schedule else None,
        catchup=False,
        max_active_runs=1,
        tags=["fp8bench"],
        default_args={"owner": "fp8bench"},
    ) as globals()[f"fp8bench_{_command}"]:
        fp8bench.override(task_id=_command)(_command)
