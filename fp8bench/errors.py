"""The exceptions of fp8bench, and the exit codes they lead to.

    Fp8BenchError                 exit 4: usage or infrastructure
    ├── UsageError                a value that a person gave is not allowed
    │   ├── ConfigError           ... in a config file or an environment variable
    │   ├── SuiteError            ... in a suite
    │   └── RevisionError         ... a repository or revision that git cannot resolve
    ├── ToolchainError            no compiler, or one that cannot do what is asked
    ├── BuildError                the kernels of a commit do not compile
    ├── RunDirError               a run directory that is missing, foreign or damaged
    ├── WorkerError               a worker process that could not do its work
    ├── StoreError                MLflow did not take or give what was asked
    ├── DeliveryError             a message could not be handed over
    │   └── RefusedError          ... to some or all, while others may be
    └── NightSkipped              no error: a night that has nothing to measure, by setting nights.unchanged; exit 0

Every message is one sentence or two: the value, what is allowed, what to do.
The command line prints it without a traceback.
"""


class Fp8BenchError(Exception):
    """Base of all errors that a user can act on."""


class UsageError(Fp8BenchError, ValueError):
    """A value that a person gave is not allowed."""


class ConfigError(UsageError):
    """A value in a config file or an environment variable is not allowed."""


class SuiteError(UsageError):
    """A suite is unknown, malformed or empty."""


class RevisionError(UsageError):
    """A repository or a revision that git cannot resolve."""


class ToolchainError(Fp8BenchError):
    """No compiler, or one that cannot do what is asked."""


class BuildError(Fp8BenchError):
    """The kernels of a commit do not compile; `log` holds the compiler's words."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class RunDirError(Fp8BenchError):
    """A run directory is missing, belongs to another night, or is damaged."""


class WorkerError(Fp8BenchError):
    """A worker process could not do its work."""


class StoreError(Fp8BenchError):
    """MLflow did not take or give what was asked."""


class DeliveryError(Fp8BenchError):
    """A message could not be handed over, nor could others now."""


class RefusedError(DeliveryError):
    """A message was refused, where others may be taken; `taken` holds the addresses that have it all the same."""

    def __init__(self, message: str, taken: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.taken = taken


class NightSkipped(Fp8BenchError):  # noqa: N818 (it ends a night, and is no error)
    """A night that has nothing to measure."""
