"""Settings: layers, refusals, and what is never stored."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path

import pytest

from fp8bench import config
from fp8bench.errors import ConfigError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FP8BENCH_CONFIG")


def test_environment_goes_before_file_and_file_before_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fp8bench.toml").write_text('suite = "reference"\n[timing]\nlaunches = 12\nquads = 4\n')
    monkeypatch.setenv("FP8BENCH_TIMING__QUADS", "7")
    found = config.load()
    assert (found.suite, found.timing.launches, found.timing.quads, found.timing.block_ms) == ("reference", 12, 7, 0.5)
    assert config.load(suite="smoke").suite == "smoke"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[timing]\nlaunches = 1\n", "timing.launches = 1"),
        ("[timing]\nlaunch = 6\n", "timing.launch"),
        ('device = "tpu"\n', "device = 'tpu'"),
        ("[mail]\nport = 70000\n", "mail.port = 70000"),
        ('[mail]\nto = "a@b.c"\n', """setting mail.to = 'a@b.c' is no list: write ["a@b.c"]."""),
        ("[service]\nport = 1\n", "no setting service.port: use airflow_port, mlflow_port, index_port of [service]."),
        ("foo = 1\n", "there is no setting foo: use home, device, repo, suite, build,"),
        ("mail = 5\n", "setting mail = 5 is a section: write its keys below [mail]."),
        ("[build]\njobs = -1\n", "setting build.jobs = -1: it should be greater than or equal to 0."),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "fp8bench.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load()
    assert told in str(caught.value)


def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "fp8bench.toml").write_text("timing = [")
    with pytest.raises(ConfigError, match=r"fp8bench\.toml"):
        config.load()


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "fp8bench.toml").write_bytes('suite = "Prüfung"'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"fp8bench\.toml is not TOML .*mend it"):
        config.load()


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # whatever the rights are, root may read

    (tmp_path / "fp8bench.toml").touch()
    monkeypatch.setattr(tomllib, "load", refused)
    with pytest.raises(ConfigError, match=r"fp8bench\.toml cannot be read \(Permission denied\): mend that"):
        config.load()


def test_secrets_are_not_stored() -> None:
    given = config.load(
        mail={"password": "hunter2", "host": "mail"}, mlflow={"tracking_uri": "https://me:hunter3@mlflow.example"}
    )
    stored = given.frozen_json()
    assert "hunter" not in stored
    assert '"host": "mail"' in stored
    assert config.Config.model_validate_json(stored).mail.host == "mail"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FP8BENCH_MAIL__TO", "a@b.c", """FP8BENCH_MAIL__TO = 'a@b.c' is no list: write it as JSON, e.g. ["a@b.c"]."""),
        ("FP8BENCH_MAIL__TO", '"a@b.c"', """setting mail.to = 'a@b.c' is no list: write ["a@b.c"]."""),
        ("FP8BENCH_TIMING__PLANTED", "all", "FP8BENCH_TIMING__PLANTED is no table: write it as JSON"),
        ("FP8BENCH_MAIL", "{password", "FP8BENCH_MAIL is no table: write it as JSON"),
    ],
)
def test_a_variable_that_is_no_list_is_refused(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FP8BENCH_DEVICE", "cpu")  # and no JSON either
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        config.load()
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FP8BENCH_TIMINGS__QUADS", "7", "sets nothing"),
        ("FP8BENCH_CONFIG", "no.toml", "names no.toml"),
        ("FP8BENCH_CONFIG", ".", "names .,"),
    ],
)
def test_what_would_be_passed_over_is_refused(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable} {told}"):
        config.load()


def test_a_home_is_written_as_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FP8BENCH_HOME", "~/nights")
    assert config.load().home == tmp_path / "nights"
    monkeypatch.setenv("FP8BENCH_HOME", "~nobody-of-that-name/nights")
    with pytest.raises(ConfigError, match=r"setting home = '~nobody-of-that-name/nights': .*Write the path out\.$"):
        config.load()
