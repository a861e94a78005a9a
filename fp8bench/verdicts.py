"""What a night found: from what was built, checked and timed to verdicts of cells, families, backends, causes.

A timed cell is judged by three functions that know nothing of each other: `is_significant` (could chance alone have
done it?), `is_relevant` (is it large enough to matter?) and `direction` (slower or faster?). Only `change` puts them
together.

Exit codes, first that applies: 2 something is wrong, crashed or not built; 3 the night is invalid; 1 a regression;
0 otherwise. An invalid night neither accuses nor acquits what it timed; what was found before timing stands.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import pandas as pd

from . import stats, wording
from .backends import CHECKED_ONLY, REFERENCE, YARDSTICKS
from .config import VerdictSettings
from .records import (
    BackendVerdict,
    BuildReport,
    Cause,
    CellVerdict,
    CheckReport,
    CheckResult,
    CheckStatus,
    Commit,
    Effect,
    FamilyVerdict,
    LaunchFailure,
    Prepared,
    Speedup,
    TimingReport,
    Verdict,
    Verdicts,
)
from .spec import BASELINE, CANDIDATE, Cell
from .speedups import geomean_speedup

BROKEN = (Verdict.WRONG, Verdict.CRASHED, Verdict.NOT_BUILT)
TOLD = (*BROKEN, Verdict.REGRESSED)  # what a cause, and so a mail, is about
_CHOSEN_CLOCKS = {"applications_clocks", "sync_boost"}  # steady, and so better for measuring than any other
_LOUDNESS = {verdict: rank for rank, verdict in enumerate(Verdict)}
_OF_CHECK = {
    CheckStatus.WRONG: Verdict.WRONG,
    CheckStatus.CRASHED: Verdict.CRASHED,
    CheckStatus.HUNG: Verdict.CRASHED,
    CheckStatus.UNSUPPORTED: Verdict.UNSUPPORTED,
    CheckStatus.MISSING: Verdict.MISSING,
}


Key = TypeVar("Key", str, tuple[str, str, str])
Change = tuple[Verdict, Effect]

# ---- significance, magnitude, direction ---------------------------------------------------------------------


def is_significant(p_values: Sequence[float], rate: float) -> list[bool]:
    """Significance: which of a night's one-sided p values stand, at the false discovery rate `rate`."""
    return stats.benjamini_hochberg(p_values, rate)


def is_relevant(effect: Effect, margin: float) -> bool:
    """Magnitude: whether the effect itself exceeds the margin."""
    return abs(effect.value) > margin


def direction(effect: Effect) -> Literal[-1, 0, 1]:
    """Direction: 1 slower, -1 faster, 0 neither."""
    return 1 if effect.value > 0 else -1 if effect.value < 0 else 0


def change(effect: Effect, significant: bool, margin: float) -> Verdict:
    """REGRESSED or IMPROVED when significant and relevant, OK when shown to be within the margin, else UNRESOLVED."""
    if significant and is_relevant(effect, margin):
        return Verdict.REGRESSED if direction(effect) > 0 else Verdict.IMPROVED
    return Verdict.OK if effect.upper <= margin else Verdict.UNRESOLVED


def changes(estimates: Mapping[Key, stats.Estimate], margin: float, rate: float) -> dict[Key, Change]:
    """Verdict and effect of each of the hypotheses that are tested together. Slower and faster are two questions."""
    names = sorted(estimates)
    slower = is_significant([estimates[name].p_slower for name in names], rate)
    faster = is_significant([estimates[name].p_faster for name in names], rate)
    effects = [_effect(estimates[name]) for name in names]
    return {
        name: (change(effect, up or down, margin), effect)
        for name, effect, up, down in zip(names, effects, slower, faster, strict=True)
    }


def loudest(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that must be told first; MISSING of none."""
    return min(verdicts, key=_LOUDNESS.__getitem__, default=Verdict.MISSING)


# ---- the night ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Night:
    """Everything that was recorded, and what timing says of each cell."""

    prepared: Prepared
    built: BuildReport
    checks: Mapping[tuple[str, str, str], CheckResult]  # (role, backend, case)
    failures: Mapping[str, LaunchFailure]  # by cell
    effects: pd.DataFrame  # launches x cells
    settings: VerdictSettings

    @property
    def margin(self) -> float:
        return self.settings.margin(self.prepared.environment.device)

    def is_control(self, backend: str) -> bool:
        """Whether timing accuses the backend of nothing: its machine code is the same twice, or it is a yardstick."""
        if backend in YARDSTICKS:
            return True
        ours, theirs = (self.built.role(role).library(backend) for role in (CANDIDATE, BASELINE))
        return ours is not None and theirs is not None and bool(ours.identity) and ours.identity == theirs.identity


def judge(
    prepared: Prepared,
    built: BuildReport,
    checked: CheckReport,
    timed: Sequence[TimingReport],
    samples: pd.DataFrame,
    settings: VerdictSettings,
) -> Verdicts:
    """Judge a night. The order of rows, files and results does not matter.

    samples: raw blocks in the columns of `records.SAMPLE_COLUMNS`.
    """
    night = _Night(
        prepared,
        built,
        {(result.role, result.backend, result.case): result for result in checked.results},
        _failures(timed),
        stats.launch_effects(samples),
        settings,
    )
    cells = _judge_cells(night, samples)
    moves = _family_changes(night, cells)
    families = [_family_verdict(night, key, members, moves.get(key)) for key, members in _by_family(cells).items()]
    if reason := _why_invalid(night, timed):
        cells = [cell.model_copy(update=_invalid(cell.verdict, reason)) for cell in cells]
        families = [family.model_copy(update=_invalid(family.verdict)) for family in families]
    backends = [_judge_backend(night, name, cells, families, reason) for name in _backend_names(prepared)]
    code = _exit_code([backend.verdict for backend in backends], reason)
    return Verdicts(
        verdict=loudest([backend.verdict for backend in backends] + [Verdict.INVALID] * bool(reason)),
        exit_code=code,
        sentence=_night_sentence(prepared, backends, reason),
        cells=tuple(cells),
        families=tuple(families),
        speedups=tuple(_speedups(cells)),
        backends=tuple(backends),
        causes=tuple(_causes(night, cells, families, backends)),
        margin=night.margin,
        confidence=settings.confidence,
    )


def _failures(timed: Sequence[TimingReport]) -> dict[str, LaunchFailure]:
    """The failure of each cell that says most: a crash before a launch that merely failed, then the first."""
    found = [failure for report in timed for failure in report.failures]
    found.sort(key=lambda failure: (failure.status == "failed", failure.launch, failure.detail), reverse=True)
    return {failure.cell: failure for failure in found}


def _exit_code(verdicts: Sequence[Verdict], invalid: str) -> int:
    if any(verdict in BROKEN for verdict in verdicts):
        return 2
    if invalid:
        return 3
    return 1 if Verdict.REGRESSED in verdicts else 0


def _night_sentence(prepared: Prepared, backends: Sequence[BackendVerdict], invalid: str) -> str:
    told = ". ".join(backend.sentence for backend in backends)
    if invalid:
        return f"The night is invalid: {invalid}. {told}."
    if prepared.first_night:
        return f"First night, measured against itself. {told}."
    return f"{told}."


# ---- cells --------------------------------------------------------------------------------------------------


def _judge_cells(night: _Night, samples: pd.DataFrame) -> list[CellVerdict]:
    found = {cell: _before_timing(night, Cell.parse(cell)) for cell in night.prepared.cells}
    timed = [cell for cell, early in found.items() if early is None and cell in night.effects]
    estimates = {cell: _estimate(night, _backend(cell), night.effects[cell]) for cell in timed}
    whole = {cell: value for cell, value in estimates.items() if value is not None}
    controls = [cell for cell in timed if night.is_control(_backend(cell))]
    judged: dict[str, tuple[Verdict, Effect | None]] = {
        **changes({cell: whole[cell] for cell in whole.keys() - set(controls)}, night.margin, night.settings.alpha),
        **{cell: (Verdict.CONTROL, _effect(whole[cell]) if cell in whole else None) for cell in controls},
    }
    times, spread = stats.cell_times(samples), stats.relative_spread(samples, CANDIDATE)
    return [_cell_verdict(night, cell, early, judged.get(cell), times, spread) for cell, early in found.items()]


def _estimate(night: _Night, backend: str, effects: Iterable[float]) -> stats.Estimate | None:
    """The effect over launches; None of too few. Controls accuse nobody, so two launches do."""
    estimate = stats.estimate(effects, night.margin, night.settings.confidence)
    enough = 2 if night.is_control(backend) else night.settings.min_launches
    return estimate if estimate and estimate.launches >= enough else None


def _effect(estimate: stats.Estimate) -> Effect:
    lower, upper = estimate.lower, estimate.upper
    p_value = estimate.p_slower if estimate.value >= 0 else estimate.p_faster
    return Effect(value=estimate.value, lower=lower, upper=upper, p_value=p_value, launches=estimate.launches)


def _before_timing(night: _Night, cell: Cell) -> tuple[Verdict, str] | None:
    """Verdict and reason of a cell that building, checking or a crash has settled; None when timing decides.

    A broken yardstick is missing, and accuses nobody.
    """
    settled = _settled(night, cell)
    if settled and settled[0] in BROKEN and cell.backend in YARDSTICKS:
        return Verdict.MISSING, settled[1]
    return settled


def _settled(night: _Night, cell: Cell) -> tuple[Verdict, str] | None:
    if settled := _not_built(night, cell.backend):
        return settled
    ours = night.checks.get((CANDIDATE, cell.backend, cell.case.id))
    theirs = night.checks.get((BASELINE, cell.backend, cell.case.id))
    if ours is None:
        return Verdict.MISSING, "the candidate was not checked"
    if ours.status is not CheckStatus.OK:
        lost = ours.status is CheckStatus.UNSUPPORTED and theirs is not None and theirs.status is CheckStatus.OK
        reason = f"the baseline supports it, the candidate does not: {ours.detail}" if lost else ours.detail
        return (Verdict.MISSING if lost else _OF_CHECK[ours.status]), reason
    if theirs is None or theirs.status is not CheckStatus.OK:
        said = f"{theirs.status}: {theirs.detail}" if theirs else "not checked"
        return Verdict.MISSING, f"nothing to compare with, the baseline is {said}"
    if untimed := CHECKED_ONLY.get((cell.backend, night.prepared.environment.device)):
        return Verdict.UNSUPPORTED, untimed
    failure = night.failures.get(cell.id)
    if failure and failure.status in ("crashed", "hung"):
        return Verdict.CRASHED, f"{failure.status} while it was timed: {failure.detail}"
    return None


def _not_built(night: _Night, backend: str) -> tuple[Verdict, str] | None:
    """Why a backend has nothing to run, told apart: its code does not compile, or this machine cannot."""
    ours, theirs = (night.built.role(role).library(backend) for role in (CANDIDATE, BASELINE))
    if ours is None or not ours.ok:
        if ours is not None and ours.error:
            return Verdict.NOT_BUILT, ours.error
        return Verdict.UNSUPPORTED, (ours.note if ours else "") or "it was not built here"
    if theirs is None or not theirs.ok:
        why = (theirs.error or theirs.note) if theirs else ""
        return Verdict.MISSING, f"nothing to compare with, the baseline was not built: {why or 'no library'}"
    return None


def _cell_verdict(
    night: _Night,
    cell: str,
    early: tuple[Verdict, str] | None,
    late: tuple[Verdict, Effect | None] | None,
    times: pd.DataFrame,
    spread: pd.Series[float],
) -> CellVerdict:
    if early is not None:
        return CellVerdict(cell=cell, verdict=early[0], reason=early[1])
    if late is None:
        return CellVerdict(cell=cell, verdict=Verdict.MISSING, reason=_why_untimed(night, cell))
    return CellVerdict(
        cell=cell,
        verdict=late[0],
        reason=_why_control(_backend(cell)) if late[0] is Verdict.CONTROL else "",
        effect=late[1],
        baseline_us=_microseconds(times, cell, BASELINE),
        candidate_us=_microseconds(times, cell, CANDIDATE),
        spread=float(spread.loc[cell]),
    )


def _why_control(backend: str) -> str:
    if backend in YARDSTICKS:
        return "what the others are measured against: not judged"
    return "the builds run the same machine code here"


def _why_untimed(night: _Night, cell: str) -> str:
    launches = int(night.effects[cell].notna().sum()) if cell in night.effects else 0
    failure = night.failures.get(cell) or night.failures.get("")
    said = f" ({failure.status}: {failure.detail})" if failure else ""
    return f"timed in {launches} launches, {night.settings.min_launches} are needed{said}"


def _microseconds(times: pd.DataFrame, cell: str, role: str) -> float:
    return float(times[role].loc[cell]) * 1e6


def _backend(cell: str) -> str:
    return cell.partition("/")[0]


# ---- families, backends, the night's validity ---------------------------------------------------------------

_Key = tuple[str, str, str]  # backend, family, regime


def _by_family(cells: Iterable[CellVerdict]) -> dict[_Key, list[CellVerdict]]:
    families: dict[_Key, list[CellVerdict]] = {}
    for verdict in cells:
        cell = Cell.parse(verdict.cell)
        families.setdefault((cell.backend, cell.case.family, cell.regime), []).append(verdict)
    return families


def _family_changes(night: _Night, cells: Sequence[CellVerdict]) -> dict[_Key, Change]:
    """A small uniform shift shows in a family's geometric mean before it shows in any of its cells."""
    estimates: dict[_Key, stats.Estimate] = {}
    for key, members in _by_family(cells).items():
        timed = [cell.cell for cell in members if cell.effect]
        value = _estimate(night, key[0], stats.mean_of_cells(night.effects[timed])) if timed else None
        if value is not None:
            estimates[key] = value
    judged: dict[_Key, Change] = {}
    for control in (False, True):  # tested apart, so that controls do not dilute what is under test
        group = {key: value for key, value in estimates.items() if night.is_control(key[0]) is control}
        judged |= changes(group, night.margin, night.settings.alpha)
    return judged


def _family_verdict(night: _Night, key: _Key, members: Sequence[CellVerdict], judged: Change | None) -> FamilyVerdict:
    backend, family, regime = key
    found = [cell.verdict for cell in members]
    if judged is not None:
        found = [verdict for verdict in found if verdict in BROKEN]
        found.append(Verdict.CONTROL if night.is_control(backend) else judged[0])
    return FamilyVerdict(
        backend=backend,
        family=family,
        regime=regime,
        verdict=loudest(found),
        effect=judged[1] if judged else None,
        cells=sum(cell.effect is not None for cell in members),
    )


def _why_invalid(night: _Night, timed: Sequence[TimingReport]) -> str:
    """Why the machine cannot be believed tonight, or ""."""
    share = throttled_share(timed)
    if share > night.settings.max_throttled_share:
        return f"the device was throttled in {share:.0%} of the launches"
    expected = [cell for cell in night.prepared.cells if _before_timing(night, Cell.parse(cell)) is None]
    measured = sum(cell in night.effects for cell in expected)
    if expected and measured < night.settings.min_timed_share * len(expected):
        return f"only {measured} of {len(expected)} cells could be timed"
    return _moved_control(night)


def throttled_share(timed: Sequence[TimingReport]) -> float:
    """Share of launches before or after which the device held its clocks down unasked."""
    states = [(report.shard, state) for report in timed for state in report.states]
    throttled = {(shard, state.launch) for shard, state in states if set(state.throttle) - _CHOSEN_CLOCKS}
    launches = sum(report.launches for report in timed)
    return len(throttled) / launches if launches else 0.0


def _moved_control(night: _Night) -> str:
    """Controls run the same machine code twice: when they move together, the machine cannot be believed.

    They are timed in few launches, so each cell and launch counts as a replicate.
    """
    for backend in _backend_names(night.prepared):
        if backend in YARDSTICKS:  # may run other machine code in each build
            continue
        controls = [cell for cell in night.effects if str(cell).startswith(f"{backend}/") and night.is_control(backend)]
        effects = night.effects[controls].to_numpy(dtype=float).ravel()
        moved = stats.estimate(effects, night.margin, night.settings.confidence)
        if moved and moved.launches > 2 and min(moved.p_slower, moved.p_faster) < night.settings.alpha:
            said = wording.effect_text(_effect(moved))
            return f"the controls of {wording.title(backend)} moved by {said} although their machine code is the same"
    return ""


def _invalid(verdict: Verdict, reason: str = "") -> dict[str, object]:
    """The change that an invalid night makes to a verdict that rests on timing."""
    if verdict not in (Verdict.REGRESSED, Verdict.IMPROVED, Verdict.OK, Verdict.UNRESOLVED):
        return {}
    return {"verdict": Verdict.INVALID} | ({"reason": f"{reason}; alone it says {verdict}"} if reason else {})


def _backend_names(prepared: Prepared) -> list[str]:
    return list(dict.fromkeys([*map(_backend, prepared.cells), *prepared.inspected]))


def _judge_backend(
    night: _Night, name: str, cells: Sequence[CellVerdict], families: Sequence[FamilyVerdict], invalid: str
) -> BackendVerdict:
    mine = [cell for cell in cells if _backend(cell.cell) == name]
    if not mine:
        return _judge_inspected(night, name)
    verdict = loudest([cell.verdict for cell in mine] + [f.verdict for f in families if f.backend == name])
    reason = invalid if verdict is Verdict.INVALID else ""
    if verdict is Verdict.REGRESSED and all(cell.verdict is not verdict for cell in mine):
        reason = _worst_family(families, name)
    counts = dict(Counter(cell.verdict for cell in mine))
    sentence = wording.backend_sentence(name, verdict, mine, reason)
    return BackendVerdict(backend=name, verdict=verdict, sentence=sentence, counts=counts)


def _judge_inspected(night: _Night, name: str) -> BackendVerdict:
    """A backend without cells: it compiles, or it does not."""
    verdict, reason = _not_built(night, name) or (Verdict.OK, "")
    title = wording.title(name)
    said = f"{title}: builds, not timed here" if verdict is Verdict.OK else ""
    sentence = said or wording.backend_sentence(name, verdict, [], reason)
    return BackendVerdict(backend=name, verdict=verdict, sentence=sentence, counts={})


def _worst_family(families: Sequence[FamilyVerdict], backend: str) -> str:
    moved = [f for f in families if f.backend == backend and f.verdict is Verdict.REGRESSED and f.effect]
    worst = max(moved, key=lambda family: _value(family.effect))
    return f"the geometric mean of {worst.family} {worst.regime} moved by {wording.effect_text(worst.effect)}"


def _value(effect: Effect | None) -> float:
    return effect.value if effect else float("-inf")


# ---- speedups -----------------------------------------------------------------------------------------------


def _speedups(cells: Sequence[CellVerdict]) -> list[Speedup]:
    times = {cell.cell: cell for cell in cells}
    return [
        _speedup(key, members, times)
        for key, members in _by_family(cells).items()
        if key[0] not in (REFERENCE, *YARDSTICKS) and any(Cell.parse(cell.cell).backend == REFERENCE for cell in cells)
    ]


def _speedup(key: _Key, members: Sequence[CellVerdict], times: Mapping[str, CellVerdict]) -> Speedup:
    """Sizes that lack a time on either side count as missing: never as 0, never as infinitely fast."""
    references = [times.get(f"{REFERENCE}/{cell.cell.partition('/')[2]}") for cell in members]
    pairs = list(zip(references, members, strict=True))
    baseline = geomean_speedup((theirs.baseline_us if theirs else None, ours.baseline_us) for theirs, ours in pairs)
    candidate = geomean_speedup((theirs.candidate_us if theirs else None, ours.candidate_us) for theirs, ours in pairs)
    backend, family, regime = key
    return Speedup(
        backend=backend,
        family=family,
        regime=regime,
        baseline=baseline.value,
        candidate=candidate.value,
        counted=candidate.counted,
        missing=candidate.missing,
    )


# ---- causes -------------------------------------------------------------------------------------------------


def _causes(
    night: _Night,
    cells: Sequence[CellVerdict],
    families: Sequence[FamilyVerdict],
    backends: Sequence[BackendVerdict],
) -> list[Cause]:
    """One a backend and verdict: cells that moved together share their suspects, and make one mail."""
    causes = []
    for backend in backends:
        for verdict in TOLD:
            accused = [cell for cell in cells if cell.verdict is verdict and _backend(cell.cell) == backend.backend]
            moved = [f for f in families if f.verdict is verdict and f.backend == backend.backend]
            if accused or moved or (backend.verdict is verdict and not backend.counts):
                causes.append(_cause(night, backend, verdict, accused, moved))
    return causes


def _cause(
    night: _Night,
    backend: BackendVerdict,
    verdict: Verdict,
    accused: Sequence[CellVerdict],
    moved: Sequence[FamilyVerdict],
) -> Cause:
    names = [family.family for family in moved] + [Cell.parse(cell.cell).case.family for cell in accused]
    families = tuple(sorted(set(names)))
    worst = max((cell for cell in accused if cell.effect), key=lambda cell: _value(cell.effect), default=None)
    effect = worst.effect if worst else max((f.effect for f in moved), key=_value, default=None)
    key = "\n".join((backend.backend, verdict, *families))
    return Cause(
        id=hashlib.sha256(key.encode()).hexdigest()[:12],
        backend=backend.backend,
        verdict=verdict,
        families=families,
        cells=tuple(cell.cell for cell in accused),
        worst=effect,
        worst_cell=worst.cell if worst else "",
        suspects=tuple(commit.sha for commit in suspects_of(backend.backend, night.prepared.suspects)),
        detail=next((cell.reason for cell in accused if cell.reason), backend.sentence),
    )


def suspects_of(backend: str, suspects: Sequence[Commit]) -> list[Commit]:
    """Suspects that touch what the backend runs; all of them when none does."""
    mine = [commit for commit in suspects if any(_touches(backend, file) for file in commit.files)]
    return mine or list(suspects)


def _touches(backend: str, file: str) -> bool:
    """A file of another backend does not; what several share touches each."""
    parts = file.split("/")
    if parts[0] == "csrc":
        return backend in ("cuda", "cpu") and (
            len(parts) == 2 or parts[1] == backend or parts[1] not in ("cuda", "cpu")
        )
    name = parts[-1].removesuffix(".py")
    return name == backend or name.startswith("_")
