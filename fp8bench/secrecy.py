"""What is secret: nobody reads it in what fp8bench writes, and code that nobody has looked at does not see it.

Commits are compiled and run by fp8bench. A source file can have its compiler read `/proc/self/environ`, a backend file
can print `os.environ`; so compilers and workers are started without the control plane's settings and without anything
that looks like a secret.
"""

from __future__ import annotations

import os
import re

_WITHHELD = re.compile(
    r"FP8BENCH_|AIRFLOW|_?MLFLOW|CELERY|REDIS|POSTGRES|PG|SSH_AUTH|AWS_|AZURE_|GOOGLE_APPLICATION|GIT_ASKPASS|NOTIFY_SOCKET|"
    r".*(PASSWORD|PASSWD|PASSPHRASE|PASS$|SECRET|TOKEN|CREDENTIAL|KEY|AUTH|COOKIE|_DSN|DATABASE_URL|CONNECTION_STRING|"
    r"WEBHOOK)|(.*_)?(PAT|PW|JWT|CREDS)(_|$)|.+_PWD(_|$)"  # PWD alone is the shell's
)
# User and password of an address; a token stands there as a user too. A password may hold an "@", and a database's a
# "/": what follows the first colon and is no port.
_USERINFO = re.compile(r"(?<=://)(?:[^/\s]*|[^/\s:\[]*:(?!\d+/)\S*)@")


def public(text: str) -> str:
    """`text` without the user and password of any address in it: what may be stored, shown and logged."""
    return _USERINFO.sub("", text)


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is the control plane's, or looks like a secret by its name or by an address in its value."""
    return _WITHHELD.match(name.upper()) is not None or public(value) != value


def scrubbed_environment() -> dict[str, str]:
    """This process's environment, without secrets."""
    return {name: value for name, value in os.environ.items() if not is_secret(name, value)}
