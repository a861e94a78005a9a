"""Nights in a real MLflow on SQLite: layout, idempotence, baseline, and what happens when it is not there."""

import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from nights import STATES, make_night

from fp8bench import records, store
from fp8bench.cli import main
from fp8bench.config import Config, MlflowSettings
from fp8bench.errors import StoreError, UsageError
from fp8bench.metrics import METRICS
from fp8bench.records import Prepared, Verdicts
from fp8bench.report import figures

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy

DEVICE = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
SECRETS = ("builder:", "hunter2")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def config(home: Path, request: pytest.FixtureRequest) -> Config:
    """One database for all tests, an experiment for each."""
    name = request.node.name.replace("[", "-").replace("]", "")
    return Config(home=home, mlflow=MlflowSettings(experiment=name, ui_url="http://localhost:5000/"))


@pytest.fixture
def client(config: Config):
    return mlflow.MlflowClient(config.tracking_uri)


def at(day: int) -> datetime:
    return datetime(2026, 3, day, 2, tzinfo=UTC)


@pytest.mark.parametrize("state", STATES)
def test_a_night_of_any_state_is_logged_as_a_run_a_backend(state, tmp_path, config, client):
    run_dir = make_night(tmp_path, state)
    logged = store.log_night(run_dir, config)
    verdicts = records.read(Verdicts, run_dir / "verdicts.json")
    assert list(logged.runs) == [entry.backend for entry in verdicts.backends]
    for entry in verdicts.backends:
        run = client.get_run(logged.runs[entry.backend])
        assert run.info.run_name == f"2026-03-14 {entry.backend}"
        assert run.info.status == "FINISHED"
        assert run.data.tags["fp8bench.verdict"] == entry.verdict
        assert entry.sentence in run.data.tags["mlflow.note.content"].replace("\\", "")
        assert logged.links[entry.backend].startswith("http://localhost:5000/#/experiments/")


def test_times_of_a_night_are_found_again(tmp_path, config):
    run_dir = make_night(tmp_path / "night", "regressed")
    store.log_night(run_dir, config)
    run_id = records.read(records.Prepared, run_dir / "prepare.json").run_id
    found = store.recorded_times(config, run_id)
    judged = records.read(Verdicts, run_dir / "verdicts.json")
    assert found == pytest.approx({cell.cell: cell.candidate_us for cell in judged.cells})
    assert store.recorded_times(config, "unknown") == {}
    invalid = make_night(tmp_path / "invalid", "invalid", run_id="invalid")
    store.log_night(invalid, config)
    assert store.recorded_times(config, "invalid") == {}


def test_layout_of_a_regressed_run(tmp_path, config, client):
    run_dir = make_night(tmp_path, "regressed")
    run = client.get_run(store.log_night(run_dir, config).runs["cpu"])
    metrics = run.data.metrics
    assert metrics["00_summary/cells_regressed"] == 8
    assert metrics["00_summary/cells_failed"] == 0
    assert metrics["02_ratio_vs_baseline/group-128-row/bfloat16/hot"] == pytest.approx(1.15, abs=0.02)
    offenders = {key for key in metrics if key.startswith("03_regressed_cells/")}
    assert len(offenders) == 8
    assert all("/group-128-row/" in key for key in offenders)
    charted = [metric.name for metric in METRICS if metric.charted]
    for name in set(charted) - {"over_floor"}:  # no floor on a CPU
        assert sum(key.startswith(f"10_{name}/") for key in metrics) == 32
    curve = client.get_metric_history(run.info.run_id, "20_curve_us/per-token/bfloat16/hot")
    assert [point.step for point in curve] == [16 * 1024, 16 * 4096, 128 * 1024, 128 * 4096]
    assert run.data.params["suite"] == "smoke"
    assert run.data.tags["fp8bench.version.g__"] == "12.2.0"
    assert run.data.tags["mlflow.source.git.commit"].startswith("abc1234")


def test_tables_and_samples_are_artifacts(tmp_path, config, client):
    run_dir = make_night(tmp_path, "wrong")
    run = store.log_night(run_dir, config).runs["cpu"]
    table = pd.read_csv(
        mlflow.artifacts.download_artifacts(run_id=run, artifact_path="cells.csv", tracking_uri=config.tracking_uri)
    )
    assert len(table) == 32
    assert set(table["verdict"]) == {"WRONG", "OK"}
    assert {metric.name for metric in METRICS} <= set(table.columns)
    path = mlflow.artifacts.download_artifacts(
        run_id=run, artifact_path="samples.parquet", tracking_uri=config.tracking_uri
    )
    samples = pd.read_parquet(path)
    assert set(samples["cell"].str.partition("/")[0]) == {"cpu"}
    assert set(records.SAMPLE_COLUMNS) <= set(samples.columns)


def test_nothing_secret_is_logged(tmp_path, config, client):
    run_dir = make_night(tmp_path, "clean")
    run = client.get_run(store.log_night(run_dir, config).runs["cpu"])
    for word in SECRETS:
        assert not [value for value in {**run.data.tags, **run.data.params}.values() if word in value]
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, tracking_uri=config.tracking_uri))
    files = [file for file in folder.rglob("*") if file.suffix in (".json", ".csv")]
    assert {"prepare.json", "verdicts.json", "cells.csv"} <= {file.name for file in files}
    for file in files:
        assert not [word for word in SECRETS if word in file.read_text()], file.name


def test_logging_twice_doubles_nothing(tmp_path, config, client):
    run_dir = make_night(tmp_path, "regressed")
    first = store.log_night(run_dir, config)
    assert store.log_night(run_dir, config) == first
    assert len(client.search_runs([first.experiment_id])) == len(first.runs)


def test_a_half_logged_night_is_finished_not_doubled(tmp_path, config, client, monkeypatch):
    run_dir = make_night(tmp_path, "regressed")
    written = store._write_artifacts

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(store, "_write_artifacts", full_disk)
    with pytest.raises(StoreError, match="no space left"):
        store.log_night(run_dir, config)
    monkeypatch.setattr(store, "_write_artifacts", written)
    logged = store.log_night(run_dir, config)
    assert len(client.search_runs([logged.experiment_id])) == len(logged.runs)
    history = client.get_metric_history(logged.runs["torch"], "00_summary/cells_measured")
    assert [point.value for point in history] == [32]


def test_the_report_is_attached_after_rendering(tmp_path, config, client):
    run_dir = make_night(tmp_path, "clean")
    logged = store.log_night(run_dir, config)
    records.write(logged, run_dir / "mlflow.json")
    (run_dir / "report.html").write_text("<p>fine</p>")
    store.attach_report(run_dir, config)
    store.attach_report(run_dir, config)
    for run in logged.runs.values():
        assert [entry.path for entry in client.list_artifacts(run)].count("report.html") == 1


def test_a_run_describes_itself_and_can_be_searched_for(tmp_path, config, client):
    store.log_night(make_night(tmp_path / "1", "first_night", run_id="20260311T020000Z-accepted"), config)
    run_dir = make_night(tmp_path / "2", "regressed")
    logged = store.log_night(run_dir, config)
    records.write(logged, run_dir / "mlflow.json")
    (run_dir / "report.html").write_text("<p>slow</p>")
    (drawn,) = figures.write(run_dir)
    store.attach_report(run_dir, config)
    found = client.search_runs(
        [logged.experiment_id], "tags.`fp8bench.suspects` LIKE '%abc1234de%' and tags.`fp8bench.states` = 'new'"
    )
    assert [run.info.run_id for run in found] == [logged.runs["cpu"]]
    note = found[0].data.tags["mlflow.note.content"]
    assert f"[Candidate against baseline]({logged.links['compare cpu']})" in note
    assert f"[Report]({logged.links['report']})" in note
    assert "`Unroll <b>twice</b> & drop the vector path (Sam O'Neil <script>alert(1)</script>)`" in note
    markup = "".join(MarkdownIt("commonmark").enable("table").render(note))
    assert "<script>" not in markup
    assert "<b>" not in markup
    figure = [entry.path for entry in client.list_artifacts(logged.runs["cpu"], "figures")]
    assert figure == [f"figures/{drawn.name}"]


def test_a_clean_first_night_becomes_the_baseline_and_no_other_does(tmp_path, config):
    assert store.accepted_baseline(config, DEVICE) is None
    store.log_night(make_night(tmp_path / "1", "regressed", run_id="n1", created=at(1)), config)
    assert store.accepted_baseline(config, DEVICE) is None
    store.log_night(make_night(tmp_path / "2", "first_night", run_id="n2", created=at(2)), config)
    first = store.accepted_baseline(config, DEVICE)
    assert first is not None
    assert first.run_id == "n2"
    store.log_night(make_night(tmp_path / "3", "first_night", run_id="n3", created=at(3)), config)
    assert store.accepted_baseline(config, DEVICE) == first


def test_a_planted_night_has_an_experiment_of_its_own_and_is_never_a_baseline(tmp_path, config, client):
    run_dir = make_night(tmp_path, "first_night")
    prepared = records.read(Prepared, run_dir / "prepare.json").model_copy(update={"planted": {"cpu/*": 0.005}})
    records.write(prepared, run_dir / "prepare.json")
    logged = store.log_night(run_dir, config)
    assert client.get_experiment(logged.experiment_id).name == f"{config.mlflow.experiment}-planted"
    assert client.get_run(logged.runs["cpu"]).data.tags["fp8bench.planted"] == "cpu/* 0.5%"
    assert store.accepted_baseline(config, DEVICE) is None
    for force in (False, True):
        with pytest.raises(UsageError, match="A planted night is never a baseline"):
            store.accept(config, prepared.run_id, force=force)


def test_accepting_moves_the_baseline_of_that_device_only(tmp_path, config):
    store.log_night(make_night(tmp_path / "1", "first_night", run_id="n1", created=at(1)), config)
    store.log_night(make_night(tmp_path / "2", "regressed", run_id="n2", created=at(2)), config)
    store.accept(config, "n1", device_name="another device's name")
    moved = store.accept(config, "n2")
    assert (moved.run_id, moved.device_name) == ("n2", DEVICE)
    assert moved.sha.startswith("abc1234")
    assert {entry.device_name: entry.run_id for entry in store.accepted_baselines(config)} == {DEVICE: "n2"} | {
        "another device_s name": "n1"
    }


@pytest.mark.parametrize("state", ["wrong", "invalid"])
def test_an_unfit_night_is_accepted_by_force_only(state, tmp_path, config):
    store.log_night(make_night(tmp_path, state, run_id="bad"), config)
    with pytest.raises(UsageError, match="should not be a baseline"):
        store.accept(config, "bad")
    assert store.accept(config, "bad", force=True).run_id == "bad"


def test_an_unknown_night_is_a_sentence(config):
    with pytest.raises(UsageError, match="no night 'nope'"):
        store.accept(config, "nope")


def test_links_compare_with_the_baselines_run(tmp_path, config):
    baseline = make_night(tmp_path / "1", "first_night", run_id="20260311T020000Z-accepted", created=at(11))
    store.log_night(baseline, config)
    logged = store.log_night(make_night(tmp_path / "2", "regressed"), config)
    assert "/#/compare-runs?runs=%5B%22" in logged.links["compare cpu"]
    assert logged.runs["cpu"] in logged.links["compare cpu"]


def test_a_whole_reference_night_is_logged_in_seconds(tmp_path, config):
    run_dir = make_night(tmp_path, "regressed", suite="reference")
    logged = store.log_night(run_dir, config)
    assert list(logged.runs) == ["torch", "cuda", "triton", "floor"]
    with store._session(config) as client:
        metrics = client.get_run(logged.runs["cuda"]).data.metrics
    assert 1 < metrics["05_geomean_over_floor/per-token/bfloat16/cold"] < 4
    assert 0 < metrics["06_geomean_memory_share/per-token/bfloat16/cold"] < 1
    assert "06_geomean_memory_share/per-token/bfloat16/hot" not in metrics
    assert "10_over_floor/per-token/bfloat16/16x896/hot" in metrics


def test_an_unreachable_server_is_a_sentence_in_bounded_time(tmp_path):
    with socket.socket() as silent:  # accepts connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}"
        config = Config(home=tmp_path, mlflow=MlflowSettings(tracking_uri=uri))
        started = time.monotonic()
        with pytest.raises(StoreError) as caught:
            store.accepted_baseline(config, DEVICE)
    assert time.monotonic() - started < 20
    assert "http://127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/none/x.db", "bogus://x"])
def test_a_useless_tracking_uri_is_a_sentence_that_names_it(uri, tmp_path):
    config = Config(home=tmp_path, mlflow=MlflowSettings(tracking_uri=uri))
    with pytest.raises(StoreError, match=uri.replace(".", r"\.")):
        store.log_night(make_night(tmp_path), config)


def test_a_home_without_nights_is_named_and_left_as_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FP8BENCH_HOME", str(tmp_path / "elsewhere"))
    assert main(["baseline", "show"]) == 0
    said = f"No night was logged to sqlite:///{tmp_path}/elsewhere/mlflow.db yet: set FP8BENCH_HOME"
    assert capsys.readouterr().out.startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, config, capsys, monkeypatch):
    monkeypatch.setenv("FP8BENCH_HOME", str(config.home))
    monkeypatch.setenv("FP8BENCH_MLFLOW__EXPERIMENT", config.mlflow.experiment)
    assert main(["baseline", "accept"]) == 4
    assert "no night has been logged yet" in capsys.readouterr().err
    assert main(["baseline", "show"]) == 0
    assert f"No baseline is accepted in {config.tracking_uri} yet: the first night sets one." in capsys.readouterr().out
    store.log_night(make_night(tmp_path / "1", "regressed", run_id="n1", created=at(1)), config)
    store.log_night(make_night(tmp_path / "2", "clean", run_id="n2", created=at(2)), config)
    assert main(["baseline", "accept"]) == 0
    assert "night n2" in capsys.readouterr().out
    assert main(["baseline", "accept", str(tmp_path / "1")]) == 0
    assert main(["baseline", "show", "--device-name", DEVICE]) == 0
    assert "night n1" in capsys.readouterr().out
    assert main(["baseline", "accept", str(tmp_path)]) == 4
    assert "no run directory" in capsys.readouterr().err
