"""Reports inside Airflow's pages: served to whoever may read the DAG, harmless, and for the right run."""

import asyncio
import base64
import hashlib
import importlib.util
import re
import warnings
from pathlib import Path

import pytest
from nights import make_night

from fp8bench import records, report
from fp8bench.paths import run_directory
from fp8bench.records import Logged

pytest.importorskip("airflow")
httpx = pytest.importorskip("httpx")
PLUGIN = Path(__file__).resolve().parent.parent / "dags" / "plugins" / "fp8bench_report.py"
RUN_ID = "manual__2026-03-14T02:00:00.123456+00:00"


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
    run_dir = make_night(run_directory(plugin.CONFIG.runs_dir, RUN_ID), "regressed")
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


def test_a_run_shows_its_own_report(plugin, client, night):
    (view,) = [view for view in plugin.Fp8benchPlugin.external_views if view["name"] == "FP8 report"]
    address = (
        view["href"].removeprefix(plugin.PREFIX).replace("{RUN_ID}", "manual__2026-03-14T02%3A00%3A00.123456%2B00%3A00")
    )
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.text == (night / "report.html").read_text()
    assert client.get(f"/runs/{night.name}/report.html").text == answer.text


def test_only_the_report_s_own_script_runs(client, night):
    policy = client.get(f"/runs/{night.name}/report.html").headers["Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", (night / "report.html").read_text(), re.DOTALL)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{known}'" in policy
    assert "default-src 'none'" in policy


def test_a_run_leads_to_its_page_in_mlflow(client, night):
    address = f"/mlflow/{RUN_ID}"
    assert client.get(address).status_code == 404
    for link, status in (("https://mlflow.example.org/#/x", 307), ("javascript:alert(1)", 404)):
        logged = Logged(tracking_uri="", experiment_id="1", runs={}, links={"night": link})
        records.write(logged, night / "mlflow.json")
        answer = client.get(address)
        assert answer.status_code == status
        assert answer.headers.get("location") == (link if status == 307 else None)


@pytest.mark.parametrize(
    "address", ["/report/nothing", "/runs/..%2F..%2Fetc/report.html", "/runs/../report.html", "/index.html"]
)
def test_what_is_not_there_is_not_there(client, address):
    assert client.get(address).status_code == 404


def test_a_stranger_sees_nothing(plugin, night):
    answer = Client(plugin.app).get(f"/runs/{night.name}/report.html")
    assert answer.status_code == 401
    assert "regressed" not in answer.text
