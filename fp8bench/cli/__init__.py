"""The command line: `fp8bench COMMAND`. One module a command, imported only when it is asked for.

A command module offers `configure(parser)` and `run(args) -> exit code`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from .. import __version__
from ..errors import Fp8BenchError, NightSkipped

COMMANDS = {
    "bench": "time the backends on this machine and compare them (as vLLM's bench_per_token_quant_fp8.py)",
    "build": "compile the kernels of a commit",
    "nightly": "run a whole night without Airflow",
    "commits": "list the commits that have kernels of their own and no night yet",
    "stage": "run one stage of a night over its run directory",
    "report": "print what a night found",
    "baseline": "show or accept the baseline",
    "index": "write the page over all nights",
    "causes": "what is open, and what people decided about it",
    "digest": "mail what the last seven days were like",
    "calibrate": "measure how often verdicts are wrong and what they catch, from launches that were made",
    "tell": "log and mail nights that MLflow or the mail host did not take",
    "doctor": "check what a night needs on this machine, and say what to do",
    "prune": "remove old run directories and builds that nobody needs",
}

EXIT_OK = 0
EXIT_REGRESSED = 1
EXIT_WRONG = 2  # wrong results, crashed or not built
EXIT_INVALID = 3
EXIT_ERROR = 4  # usage or infrastructure

EXIT_CODES = """exit codes:
  0  fine
  1  a regression
  2  wrong results, a crash, or kernels that do not build
  3  an invalid night: the machine did not hold still
  4  usage or infrastructure; what was measured is kept in the run directory
"""


class Parser(argparse.ArgumentParser):
    """Exits with the documented code for usage errors."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(EXIT_ERROR, f"{self.prog}: {message}\n")


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = Parser(
        prog="fp8bench",
        description="Nightly performance-regression pipeline for FP8 quantization kernels.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fp8bench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in names:
            importlib.import_module(f"{__name__}.{name}").configure(command)
    return parser


def explain(error: Exception) -> str:
    """An error as a sentence. What a user can act on shows no traceback; a fault of fp8bench prints its own first."""
    if isinstance(error, Fp8BenchError):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}. Mend that, or name another place."
    traceback.print_exception(error)
    return f"a fault of fp8bench ({type(error).__name__}, see above): report it. What was measured is kept."


def _with_dashes(word: str) -> str:
    """`--hidden-sizes` for `--hidden_sizes`: the reference script takes its flags either way."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, call, exit code. An error of any kind ends with `EXIT_ERROR`: other codes say what a night found."""
    argv = sys.argv[1:] if argv is None else list(argv)
    told = " ".join(["fp8bench", *argv[:1]])
    try:
        args = _parser(argv[:1]).parse_args([_with_dashes(word) for word in argv])
        code: int = importlib.import_module(f"{__name__}.{args.command}").run(args)
        return code
    except NightSkipped as reason:
        print(f"{told}: {reason}")
        return EXIT_OK
    except KeyboardInterrupt:
        print(f"{told}: interrupted; what was finished is kept.", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 Python itself would exit with 1, which is a regression's
        print(f"{told}: {explain(error)}", file=sys.stderr)
        return EXIT_ERROR
