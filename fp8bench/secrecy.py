"""What code of commits that nobody has looked at may see of this process's environment: nothing that is secret.

It is compiled and run by fp8bench. A source file can have its compiler read `/proc/self/environ`, a backend file can
print `os.environ`; so compilers and workers are started without the control plane's settings and without anything that
looks like a secret.
"""

from __future__ import annotations

import os
import re

_WITHHELD = re.compile(
    r"FP8BENCH_|AIRFLOW|_?MLFLOW|CELERY|REDIS|POSTGRES|PG|SSH_AUTH|AWS_|AZURE_|GOOGLE_APPLICATION|GIT_ASKPASS|NOTIFY_SOCKET|"
    r".*(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE_KEY|_DSN|DATABASE_URL|WEBHOOK)"
)
_URL_WITH_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]+@", re.IGNORECASE)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is the control plane's, or looks like a secret by its name or by an address in its value."""
    return _WITHHELD.match(name.upper()) is not None or _URL_WITH_PASSWORD.search(value) is not None


def scrubbed_environment() -> dict[str, str]:
    """This process's environment, without secrets."""
    return {name: value for name, value in os.environ.items() if not is_secret(name, value)}
