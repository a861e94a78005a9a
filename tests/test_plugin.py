"""Reports inside Airflow's pages: served to whoever may read the DAG, harmless, and for the right run."""

import asyncio
import base64
import hashlib
import importlib.util
import re
import warnings
from pathlib import Path
from urllib.parse import quote

import pytest
from nights import make_night

from fp8bench import records, report
from fp8bench.paths import night_directory
from fp8bench.records import Logged

pytest.importorskip("airflow")
httpx = pytest.importorskip("httpx")
PLUGIN = Path(__file__).resolve().parent.parent / "dags" / "plugins" / "fp8bench_report.py"
RUN_ID = "manual__2026-03-14T02:00:00.123456+00:00"
DAG_ID = "fp8bench_nightly"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FP8BENCH_HOME", str(tmp_path_factory.mktemp("home")))
        spec = importlib.util.spec_from_file_location("fp8bench_report_under_test", PLUGIN)
        module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what Airflow imports of Starlette
            spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def night(plugin) -> Path:
    run_dir = make_night(night_directory(plugin.CONFIG.runs_dir, DAG_ID, RUN_ID), "regressed")
    (run_dir / "report.html").write_text(report.render(run_dir))
    return run_dir


class Client:
    """Asks the app as a browser would, without a server in between."""

    def __init__(self, app) -> None:
        self.app = app

    def get(self, address: str):
        async def ask():
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
                return await client.get(address)

        return asyncio.run(ask())


@pytest.fixture
def client(plugin):
    plugin.app.dependency_overrides[plugin.reader] = lambda: None
    yield Client(plugin.app)
    plugin.app.dependency_overrides.clear()


def address(plugin, view: str, dag_id: str, run_id: str = RUN_ID) -> str:
    """Where the tab `view` of a run leads, as Airflow's page makes it of the tab's address."""
    (href,) = [entry["href"] for entry in plugin.Fp8benchPlugin.external_views if entry["name"] == view]
    made = href.removeprefix(plugin.PREFIX).replace("{DAG_ID}", quote(dag_id, safe=""))
    return made.replace("{RUN_ID}", quote(run_id, safe=""))


def test_a_run_shows_its_own_report(plugin, client, night):
    answer = client.get(address(plugin, "FP8 report", DAG_ID))
    assert answer.status_code == 200
    assert answer.text == (night / "report.html").read_text()
    assert client.get(f"/runs/{night.name}/report.html").text == answer.text


def test_a_run_on_another_kind_of_gpu_shows_the_night_of_that(plugin, client, night):
    """Runs of one schedule bear the same id in every DAG."""
    there = make_night(night_directory(plugin.CONFIG.runs_dir, f"{DAG_ID}_b200", RUN_ID), "clean")
    assert there != night
    (there / "report.html").write_text("of the B200")
    for name, link in ((night, "https://mlflow.example.org/#/h200"), (there, "https://mlflow.example.org/#/b200")):
        logged = Logged(tracking_uri="", experiment_id="1", runs={}, links={"night": link})
        records.write(logged, name / "mlflow.json")
    assert client.get(address(plugin, "FP8 report", f"{DAG_ID}_b200")).text == "of the B200"
    assert client.get(address(plugin, "FP8 report", f"{DAG_ID}_none")).status_code == 404
    assert client.get(address(plugin, "MLflow", f"{DAG_ID}_b200")).headers["location"].endswith("b200")
    assert client.get(address(plugin, "MLflow", DAG_ID)).headers["location"].endswith("h200")
    (night / "mlflow.json").unlink()


@pytest.mark.parametrize("view", ["FP8 report", "MLflow"])
def test_a_run_that_measures_nothing_shows_no_night(plugin, client, night, view):
    answer = client.get(address(plugin, view, "fp8bench_commits"))
    assert answer.status_code == 404
    assert "measure nothing: look at those of fp8bench_nightly" in answer.text


def test_only_the_report_s_own_script_runs(client, night):
    policy = client.get(f"/runs/{night.name}/report.html").headers["Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", (night / "report.html").read_text(), re.DOTALL)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{known}'" in policy
    assert "default-src 'none'" in policy


def test_a_run_leads_to_its_page_in_mlflow(plugin, client, night):
    page = address(plugin, "MLflow", DAG_ID)
    assert client.get(page).status_code == 404
    for link, status in (("https://mlflow.example.org/#/x", 307), ("javascript:alert(1)", 404)):
        logged = Logged(tracking_uri="", experiment_id="1", runs={}, links={"night": link})
        records.write(logged, night / "mlflow.json")
        answer = client.get(page)
        assert answer.status_code == status
        assert answer.headers.get("location") == (link if status == 307 else None)


@pytest.mark.parametrize(
    "page", [f"/report/{DAG_ID}/nothing", "/runs/..%2F..%2Fetc/report.html", "/runs/../report.html", "/index.html"]
)
def test_what_is_not_there_is_not_there(client, page):
    assert client.get(page).status_code == 404


def test_a_stranger_sees_nothing(plugin, night):
    answer = Client(plugin.app).get(f"/runs/{night.name}/report.html")
    assert answer.status_code == 401
    assert "regressed" not in answer.text
