"""Statistics of launches, with simulated launches and fixed seeds: the error rates that the verdicts rest on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from fp8bench import stats

ORDERS = (("baseline", "candidate", "candidate", "baseline"), ("candidate", "baseline", "baseline", "candidate"))


def blocks(effects: dict[str, list[float]], noise: float = 0.0, drift: float = 0.0, seed: int = 1) -> pd.DataFrame:
    """Raw samples of cells whose launches have the given effects; time also drifts by `drift` a block."""
    generator = np.random.default_rng(seed)
    rows = []
    for cell, launches in effects.items():
        for launch, effect in enumerate(launches):
            for quad in range(6):
                for position, role in enumerate(ORDERS[quad % 2]):
                    log = effect * (role == "candidate") + drift * (4 * quad + position) + generator.normal(0, noise)
                    rows.append((launch, cell, quad, position, role, 10, 1e-6 * np.exp(log)))
    return pd.DataFrame(rows, columns=["launch", "cell", "quad", "position", "role", "calls", "seconds"])


def test_launch_effects_cancel_drift() -> None:
    found = stats.launch_effects(blocks({"a": [0.01, 0.02], "b": [-0.3, 0.0]}, drift=0.05))
    np.testing.assert_allclose(found[["a", "b"]], [[0.01, -0.3], [0.02, 0.0]], atol=1e-12)


def test_launch_effects_do_not_depend_on_the_order_of_rows() -> None:
    samples = blocks({"a": [0.01, 0.02], "b": [-0.3, 0.0]}, noise=0.02)
    shuffled = samples.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(stats.launch_effects(samples), stats.launch_effects(shuffled))


def test_a_burst_in_a_few_blocks_does_not_move_a_launch() -> None:
    samples = blocks({"a": [0.0, 0.0, 0.0]}, noise=0.001)
    samples.loc[(samples["quad"] == 2) & (samples["position"] == 1), "seconds"] *= 20
    assert stats.launch_effects(samples).abs().to_numpy().max() < 0.002


def test_quads_that_lack_a_block_are_left_out() -> None:
    samples = blocks({"a": [0.1, 0.1]})
    cut = samples[~((samples["launch"] == 1) & (samples["position"] == 3))]
    assert stats.launch_effects(cut)["a"].dropna().to_dict() == {0: pytest.approx(0.1)}
    assert stats.launch_effects(samples[:0]).empty
    assert stats.launch_effects(samples[samples["role"] == "candidate"]).empty


def test_estimate_by_hand() -> None:
    found = stats.estimate([0.01, 0.02, 0.03, float("nan")], margin=0.005)
    assert found is not None
    error = 0.01 / 3**0.5
    assert found.value == pytest.approx(0.02)
    assert found.upper - found.value == pytest.approx(4.302653 * error, rel=1e-6)
    assert found.p_slower == pytest.approx(scipy_stats.t.sf(0.015 / error, 2))
    assert found.p_faster > 0.9
    assert found.launches == 3


def test_estimate_of_too_few_or_equal_launches() -> None:
    assert stats.estimate([0.01], 0.0) is None
    equal = stats.estimate([0.01] * 5, 0.003)
    assert equal is not None
    assert equal.p_slower < 1e-6


@pytest.mark.parametrize("launches", [3, 6, 12])
def test_intervals_cover(launches: int) -> None:
    """95% intervals hold the true effect in 93-97% of simulated cells."""
    generator = np.random.default_rng(7)
    truth = 0.02
    found = stats.estimates(pd.DataFrame(generator.normal(truth, 0.01, (launches, 3000))), 0.0)
    covered = ((found["lower"] <= truth) & (truth <= found["upper"])).mean()
    assert 0.93 <= covered <= 0.97


def test_p_values_are_uniform_at_the_margin() -> None:
    """Exactly at the margin, a p value below 5% is seen in about 5% of cells; below the margin far less."""
    generator = np.random.default_rng(8)
    for truth, low, high in ((0.03, 0.035, 0.065), (0.02, 0.0, 0.01)):
        found = stats.estimates(pd.DataFrame(generator.normal(truth, 0.01, (6, 3000))), 0.03)
        assert low <= (found["p_slower"] < 0.05).mean() <= high


def test_benjamini_hochberg_by_hand() -> None:
    assert stats.benjamini_hochberg([0.01, 0.04, 0.03, 0.5], 0.05) == [True, False, False, False]
    assert stats.benjamini_hochberg([0.01, 0.02, 0.03, 0.04], 0.05) == [True] * 4
    assert stats.benjamini_hochberg([], 0.05) == []
    assert stats.benjamini_hochberg([0.9], 0.05) == [False]


def test_benjamini_hochberg_bounds_false_discoveries() -> None:
    generator = np.random.default_rng(9)
    shares = []
    for _ in range(400):
        z = generator.normal(0, 1, 60)
        z[:12] += 3.5
        rejected = np.array(stats.benjamini_hochberg(list(scipy_stats.norm.sf(z)), 0.05))
        shares.append(rejected[12:].sum() / max(rejected.sum(), 1))
    assert np.mean(shares) <= 0.05


def test_times_are_medians_of_launches() -> None:
    samples = blocks({"a": [0.0, 0.5, 0.1]})
    times = stats.cell_times(samples).loc["a"]
    assert times["baseline"] == pytest.approx(1e-6)
    assert times["candidate"] == pytest.approx(1e-6 * np.exp(0.1))
    assert stats.relative_spread(samples, "baseline")["a"] == pytest.approx(0.0)
    assert stats.relative_spread(blocks({"a": [0.0] * 9}, noise=0.01), "candidate")["a"] == pytest.approx(0.0135, 0.2)


def test_a_group_of_whole_launches_is_estimated_from_their_means() -> None:
    table = pd.DataFrame(np.random.default_rng(3).normal(0.01, 0.01, (6, 4)), columns=list("abcd"))
    found = stats.estimates(table, 0.003, groups=["x", "y", "x", "y"])
    for name, columns in (("x", ["a", "c"]), ("y", ["b", "d"])):
        alone = stats.estimate(table[columns].mean(axis=1), 0.003)
        assert alone is not None
        assert found.loc[name, "value"] == pytest.approx(alone.value)
        assert found.loc[name, "upper"] == pytest.approx(alone.upper)
        assert found.loc[name, "p_slower"] == pytest.approx(alone.p_slower)
        assert found.loc[name, "launches"] == 6


def test_intervals_of_groups_cover_when_cells_stop_early_and_launches_sway() -> None:
    """Cells of a launch share half of its sway; some were timed in three launches only."""
    generator = np.random.default_rng(11)
    covered = []
    for _ in range(600):
        own, common = generator.normal(0, 0.001, (6, 8)), generator.normal(0, 0.0007, (6, 1))
        table = pd.DataFrame(own + common, columns=list("abcdefgh"))
        table.loc[3:, ["a", "b", "c"]] = np.nan
        row = stats.estimates(table, 0.0, groups=["x"] * 8).iloc[0]
        covered.append(row["lower"] <= 0 <= row["upper"])
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_cell_that_sways_far_more_than_its_group_counts_less() -> None:
    steps = np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    table = pd.DataFrame({"a": steps, "b": 2 * steps, "c": steps, "d": 8 * steps, "alone": 9 * steps, "once": np.nan})
    table.loc[0, "once"] = 5.0
    found = stats.steadiness(table, ["x", "x", "x", "x", "y", "x"])
    assert found.to_dict() == pytest.approx({"a": 1, "b": 1, "c": 1, "d": (2 / 8) ** 2, "alone": 1, "once": 1})
    shifted = table[list("abcd")] + np.array([0.01, 0.01, 0.01, 0.5])
    row = stats.estimates(shifted, 0.0, groups=["x"] * 4, weights=found).loc["x"]
    assert row["value"] == pytest.approx((0.03 + 0.5 / 16) / (3 + 1 / 16))
    plain = stats.estimate((shifted * found[list("abcd")]).sum(axis=1) / (3 + 1 / 16), 0.0)
    assert plain is not None
    assert (row["upper"], row["p_slower"]) == pytest.approx((plain.upper, plain.p_slower))


def test_cells_that_do_not_sway_at_all_count_the_same() -> None:
    table = pd.DataFrame({"a": [0.01] * 3, "b": [0.02] * 3, "c": [0.01, 0.02, 0.01], "d": [0.01] * 3})
    found = stats.steadiness(table, ["x", "x", "y", "x"])
    assert found.to_dict() == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert stats.estimates(table, 0.0, groups=["x", "x", "y", "x"], weights=found).loc["x", "value"] == pytest.approx(
        0.04 / 3
    )


@pytest.mark.parametrize(("cells", "launches"), [(5, 3), (5, 6), (25, 6)])
@pytest.mark.parametrize("unsteady", [1.0, 8.0])
def test_intervals_of_groups_cover_when_the_same_launches_say_how_much_cells_count(
    cells: int, launches: int, unsteady: float
) -> None:
    generator, groups = np.random.default_rng(4), [f"{number:03}" for number in range(400) for _ in range(cells)]
    deviations = np.tile([unsteady, *[1.0] * (cells - 1)], 400)
    table = pd.DataFrame(generator.normal(0, deviations, (launches, 400 * cells)))
    found = stats.estimates(table, 0.0, groups=groups, weights=stats.steadiness(table, groups))
    covered = ((found["lower"] <= 0) & (found["upper"] >= 0)).mean()
    assert 0.91 <= covered <= 0.98


def test_a_cell_that_sways_has_a_wider_margin() -> None:
    table = pd.DataFrame({"still": [0.0100, 0.0101, 0.0099], "sways": [0.00, 0.01, 0.02]})
    found = stats.estimates(table, 0.003, spread=1.5)
    assert found["margin"].to_dict() == pytest.approx({"still": 0.003, "sways": 0.015})
    assert found.loc["still", "p_slower"] < 0.001
    assert found.loc["sways", "p_slower"] > 0.5


def test_earlier_launches_widen_the_margin_and_nothing_else() -> None:
    """Three launches agree by chance; six before them did not."""
    lucky = pd.DataFrame({"a": [0.010, 0.0101, 0.0099], "b": [0.010, 0.0101, 0.0099]})
    earlier = stats.estimates(pd.DataFrame({"a": [0.0, 0.02, -0.01, 0.01, -0.02, 0.0]}), 0.003)
    alone, found = stats.estimates(lucky, 0.003), stats.estimates(lucky, 0.003, spread=1.5, earlier=earlier)
    pooled = ((5 * earlier.loc["a", "deviation"] ** 2 + 2 * alone.loc["a", "deviation"] ** 2) / 7) ** 0.5
    assert found["margin"].to_dict() == pytest.approx({"a": 1.5 * pooled, "b": 0.003})
    assert found["upper"].to_dict() == alone["upper"].to_dict()


@pytest.mark.parametrize("tests", [[(6, 0.05)], [(6, 0.1), (12, 0.005)]])
def test_the_detectable_effect_is_caught_as_often_as_it_says(tests: list[tuple[int, float]]) -> None:
    generator = np.random.default_rng(12)
    shift = stats.detectable(tests, 0.8)
    passed = np.ones(4000, dtype=bool)
    for count, level in tests:
        table = pd.DataFrame(generator.normal(shift, 1, (count, 4000)))
        passed &= stats.estimates(table, 0.0)["p_slower"].to_numpy() < level
    assert np.mean(passed) == pytest.approx(0.8, abs=0.02)
