"""Which cells a night measures: shipped suites, suites of one's own, and their distribution over GPUs.

A suite is a TOML file. Its grid is the product of `schemes`, `dtypes`, `tokens` and `hidden`; `cases` adds single
cases by id. Every case is timed by every one of `backends` in every one of `regimes`; a yardstick among them (`floor`)
is timed once a size and dtype. Backends in `inspect` are built and looked at only. A table `[cpu]` or `[cuda]` replaces
keys on that device:

    schemes = ["per-token", "group-128-col"]
    dtypes = ["bfloat16"]
    tokens = [1, 1024]
    hidden = [7168]
    cases = ["per-tensor/float16/16x4096"]
    regimes = ["hot", "cold"]

    [cpu]
    backends = ["torch", "cpu"]
    inspect = ["cuda"]

    [cuda]
    backends = ["torch", "cuda", "triton"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from .backends import EVERY, YARDSTICKS, check_name, yardstick_case
from .errors import SuiteError, UsageError
from .spec import REGIMES, Case, Cell, Scheme, parse_dtype

SUITES = Path(__file__).resolve().parent / "suites"
DEVICES = ("cpu", "cuda")


class Suite(BaseModel):
    """The cells of a night on one device, in a fixed order."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    name: str
    cells: tuple[Cell, ...]
    inspect: tuple[str, ...] = ()

    @property
    def backends(self) -> tuple[str, ...]:
        """Those with cells, in the suite's order."""
        return tuple(dict.fromkeys(cell.backend for cell in self.cells))


class _Keys(BaseModel):
    """What a suite file may say."""

    model_config = ConfigDict(extra="forbid", strict=True)

    backends: list[str] = []
    inspect: list[str] = []
    schemes: list[str] = []
    dtypes: list[str] = ["bfloat16"]
    tokens: list[StrictInt] = []
    hidden: list[StrictInt] = []
    cases: list[str] = []
    regimes: list[str] = ["hot"]


def names() -> tuple[str, ...]:
    """The suites that are shipped."""
    return tuple(sorted(path.stem for path in SUITES.glob("*.toml")))


def load(name_or_file: str | Path, device: str) -> Suite:
    """The suite on `device` ("cuda" or "cpu"); SuiteError names the key, the value and what is allowed."""
    path = _find(str(name_or_file))
    keys = _read(path, device)
    try:
        cells = _cells(keys)
        inspect = tuple(check_name(name) for name in keys.inspect)
    except UsageError as error:
        raise SuiteError(f"suite {path.name}: {error}") from None
    if not cells:
        raise SuiteError(f"suite {path.name} has no cells on {device}: give backends, and schemes with sizes or cases.")
    name = path.stem if path.parent == SUITES else str(path)
    return Suite(name=name, cells=cells, inspect=tuple(name for name in inspect if name not in keys.backends))


def shard(cells: Sequence[Cell], count: int) -> tuple[tuple[Cell, ...], ...]:
    """`cells` in at most `count` shards, none empty.

    The cells of a case stay together, so that all backends of a case are compared on one GPU. The largest cases are
    dealt first, each to the emptiest shard: balanced, and the same for every order of `cells`.
    """
    if count < 1:
        raise UsageError(f"{count} shards: a night needs at least 1.")
    cases = sorted({cell.case for cell in cells}, key=lambda case: (-case.bytes_moved, case.id))
    count = min(count, len(cases))
    load_of, home = [0] * count, {}
    for case in cases:
        home[case] = load_of.index(min(load_of))
        load_of[home[case]] += case.bytes_moved + 50_000_000  # most of what a cell costs does not depend on its size
    return tuple(tuple(cell for cell in cells if home[cell.case] == index) for index in range(count))


def _find(name: str) -> Path:
    shipped = SUITES / f"{name}.toml"
    if name in names():
        return shipped
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path.resolve()
    raise SuiteError(f"unknown suite {name!r}: use {', '.join(names())} or the path of a .toml file.")


def _read(path: Path, device: str) -> _Keys:
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"suite {path} is not valid TOML ({error}): mend it.") from None
    except OSError as error:
        raise SuiteError(f"suite {path} cannot be read ({error.strerror}).") from None
    tables = {name: values.pop(name, {}) for name in DEVICES}
    for table in (values | tables[other] for other in DEVICES if other != device):
        _validated(path, table)  # a mistake for the other device is told here already
    return _validated(path, values | tables[device])


def _validated(path: Path, values: dict[str, object]) -> _Keys:
    try:
        return _Keys.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            allowed = ", ".join([*_Keys.model_fields, *(f"[{device}]" for device in DEVICES)])
            raise SuiteError(f"suite {path.name}: unknown key {key!r}; use {allowed}.") from None
        raise SuiteError(f"suite {path.name}: {key} = {first['input']!r}: {first['msg']}.") from None


def _cells(keys: _Keys) -> tuple[Cell, ...]:
    grid = product(keys.schemes, keys.dtypes, keys.tokens, keys.hidden)
    cases = [Case(Scheme.parse(scheme), parse_dtype(dtype), *size) for scheme, dtype, *size in grid]
    cases = list(dict.fromkeys([*cases, *map(Case.parse, keys.cases)]))
    backends = [check_name(name, EVERY) for name in dict.fromkeys(keys.backends)]
    for regime in keys.regimes:
        if regime not in REGIMES:
            raise UsageError(f"unknown cache regime {regime!r}: use one of {', '.join(REGIMES)}.")
    sizes = list(dict.fromkeys(map(yardstick_case, cases)))
    timed = [(name, sizes if name in YARDSTICKS else cases) for name in backends]
    return tuple(Cell(name, *parts) for name, found in timed for parts in product(found, dict.fromkeys(keys.regimes)))
