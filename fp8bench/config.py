"""Settings, in layers: defaults < fp8bench.toml < environment (FP8BENCH_SECTION__KEY) < command line.

The resolved settings are frozen into the run directory by `prepare`, without secrets; later stages read them
from there, so a night does not change its mind half-way.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byBaseSettings,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byPydanticBaseSettingsSource,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bySettingsConfigDict,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bySettingsError,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byTomlConfigSettingsSource,
)

from .errors import ConfigError

_NO_SETTINGS = ("FP8BENCH_CONFIG", "FP8BENCH_NO_NVCC")  # the settings' own file; of ci/setup


class Section(BaseModel):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymodel_config = ConfigDict(frozen=True, extra="forbid")


class BuildSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byarchitectures: tuple[str, ...] = ("80", "89", "90", "100")  # sm_XX; those that nvcc lacks are left out
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byjobs: int = Field(default=0, ge=0)  # compiler processes; 0: one a core


class WorkerSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bypython: str = sys.executable  # interpreter of the GPU environment
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bystartup_timeout_s: float = Field(default=300, gt=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bycell_timeout_s: float = Field(default=120, gt=0)  # a cell that takes longer hangs
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# A command that becomes the worker (it must not fork), to take rights away: ["setpriv", "--reuid=kernels", ...].
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bywrapper: tuple[str, ...] = ()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymemory_gb: float = Field(default=0, ge=0)  # of address space, on a CPU alone (CUDA reserves far more); 0: all
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydevice_wait_s: float = Field(default=7200, ge=0)  # for another night on the same GPU to end


class TimingSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by"""How a night spends its time, each with its reason."""

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Fresh worker processes that screen: most of those that a cell gets before it is confirmed or left alone.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bylaunches: int = Field(default=6, ge=3)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# More of them for what was screened: a cell's own noise is then known to a third.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byconfirm_launches: int = Field(default=12, ge=3)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# A cell needs no more launches once half of its interval is below this share of the margin (and, when it is
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# screened, the whole interval within the margin). A cell that moved by two margins is then left alone in fewer
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# than 1 of 1,000 cases. A verdict is worth more: at a third of the margin, confirmations of still cells end after 6
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# launches, which a test at 1% pays with a sixth of the effects that it could see (0.32% instead of 0.27%).
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byscreen_precision: float = Field(default=3 / 4, ge=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byconfirm_precision: float = Field(default=1 / 5, ge=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Launches before an interval is believed. That of three is wide; a verdict must not rest on a spread that is small
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# by luck.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byscreen_least: int = Field(default=3, ge=3)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byconfirm_least: int = Field(default=6, ge=3)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Launches that measure cells of the same machine code in both builds: they must not move, and accuse nobody.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bycontrol_launches: int = Field(default=2, ge=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# The A/A arm: of the cells of a backend that are no controls, this share, and at least so many cells.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byaa_share: float = Field(default=0.05, ge=0, le=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byaa_cells: int = Field(default=3, ge=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byquads: int = Field(default=10, ge=1)  # ABBA quads a cell and launch
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Of a cold cell on a GPU so many times more. Its times sway from block to block, so that quads are the cheapest way
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# to precision (0.34 and 0.24% with 5 and 10 of them on an H200); hot ones sway from launch to launch.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bycold_factor: int = Field(default=2, ge=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# That the quads of a hot cell are spread over, where calls overlap: such calls take one of two times (1.14 and
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# 1.27 us were seen), one of them as long as a captured graph lasts. Five captures average over that for half of
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# what the quads themselves cost.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bycaptures: int = Field(default=5, ge=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byblock_ms: float = Field(default=0.5, gt=0)  # aimed length of one timed block
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bywarmup_ms: float = Field(default=5.0, ge=0)


class VerdictSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by"""Thresholds of the verdicts, each with its reason. Effects are log-ratios: 0.01 is 1% slower."""

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Smallest effect worth an alert. Nights resampled from H200 launches, with `margin_spread`: docs/measurement.md.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymargin_cuda: float = Field(default=0.002, ge=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# A busy 2-core machine moves single cells by 2-3% between launches.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymargin_cpu: float = Field(default=0.03, ge=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# A cell whose launches sway must move by this many of their standard deviations: where its code and buffers
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# happen to lie makes a difference that lasts for a night (0.2% at a deviation of 0.3% was seen between relinked
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# builds of the same kernels), and no number of launches averages that out.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymargin_spread: float = Field(default=1.5, ge=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Of the one-sided test that decides what is confirmed, per cell: lower spares launches, and misses more.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byscreen_alpha: float = Field(default=0.10, gt=0, lt=0.5)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# False discovery rate over the cells (and over the families) that were screened that night. Most nights screen a
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# handful, so a night's false alarms are about this rate, and 5% of the nights that screen would be too many.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byalpha: float = Field(default=0.01, gt=0, lt=0.5)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Of the smallest effect that a night promises to catch.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bypower: float = Field(default=0.80, gt=0.5, lt=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Of the intervals that are shown, and that must lie below the margin for an OK.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byconfidence: float = Field(default=0.95, gt=0.5, lt=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Fewer launches give no interval worth the name.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymin_launches: int = Field(default=3, ge=3)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Pairing cancels short throttling; a night that throttles in more launches than this measured another machine.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymax_throttled_share: float = Field(default=0.25, ge=0, le=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Blocks are dropped for what happened to the machine while they ran; more than this, and it held still too little.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymax_dropped_share: float = Field(default=0.25, ge=0, le=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# When less of what should have been timed was, silence would mean nothing.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymin_timed_share: float = Field(default=0.5, ge=0, le=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# How far the baseline build may be from its recorded times, in the median over a family: one kernel differed by
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# 4.5% between machines of one model and by 3.6% between processes, so less is nobody's news.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byshift_cuda: float = Field(default=0.06, ge=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# A CPU's clock and neighbours change from day to day.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byshift_cpu: float = Field(default=0.25, ge=0)

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydef margin(self, device: str) -> float:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    return self.margin_cuda if device == "cuda" else self.margin_cpu

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydef shift(self, device: str) -> float:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    return self.shift_cuda if device == "cuda" else self.shift_cpu


class MlflowSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bytracking_uri: str = ""  # default: SQLite in the home directory
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byexperiment: str = "fp8bench"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byui_url: str = ""  # base of the links in report and mail


class MailSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byto: tuple[str, ...] = ()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byoperators: tuple[str, ...] = ()  # who hears of invalid nights; nobody named: those in `to`
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bysender: str = "fp8bench@localhost"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byhost: str = ""  # "": messages stay in the outbox
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byport: int = Field(default=25, ge=1, le=65535)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byuser: str = ""
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bypassword: SecretStr = SecretStr("")
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bysecurity: Literal["none", "starttls", "tls"] = "none"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydigest: bool = True  # the first night of a week sends what the last one was like: silence alone proves nothing


class RetentionSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by"""What `fp8bench prune` leaves, each with its reason. MLflow keeps every night's numbers whatever this says."""

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Finished nights whose run directory stays, newest first: a quarter, to look back at raw samples and logs.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bykeep_nights: int = Field(default=90, ge=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# An unfinished night can be resumed for so long; never less than a day, in which it may still be running.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bykeep_unfinished_days: float = Field(default=7, ge=1)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Since a build was last used. It can be compiled again at any time; a month spares bisections most of that.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bykeep_builds_days: float = Field(default=30, ge=1)


class NightSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by"""What is measured when nobody names a commit, and on how many GPUs."""

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bybranch: str = ""  # whose latest commit is measured; "": the default branch of a URL, the HEAD of a path
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# A night whose kernels are those of the baseline: a control, which proves that the machine holds still, or skipped.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byunchanged: Literal["control", "skip"] = "control"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymax_commits: int = Field(default=20, ge=1)  # that get a night each at one look for new ones
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byshards: int = Field(default=0, ge=0)  # GPUs that share a night; 0: all of the machine that prepares it


class AirflowSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byschedule: str = "0 2 * * *"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bycommits_schedule: str = ""  # when to look for commits that get a night each; "": never
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by# Nights that were missed while nothing ran: only the latest is made up for, or each of them, or none.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bycatch_up: Literal["latest", "all", "none"] = "latest"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bypool: str = "gpu"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byqueue: str = "default"  # of the GPU tasks
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bycontrol_queue: str = "default"  # of all others; the GPU tasks' own where machines share no file system
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bypod_template: str = ""  # of the GPU tasks on Kubernetes: a file that Airflow's scheduler can read
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byexecutor: str = ""  # of the GPU tasks; "": Airflow's own default
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byretries: int = Field(default=1, ge=0)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byretry_delay_s: float = Field(default=60, ge=0)


class ServiceSettings(Section):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by"""Where `make up` serves, on the loopback interface alone."""

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byairflow_port: int = Field(default=8080, ge=1, le=65535)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymlflow_port: int = Field(default=5000, ge=1, le=65535)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byindex_port: int = Field(default=8090, ge=1, le=65535)  # the page over all nights


def _file() -> Path:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byreturn Path(os.environ.get("FP8BENCH_CONFIG", "fp8bench.toml"))


class Config(BaseSettings):
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymodel_config = SettingsConfigDict(
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    frozen=True,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    extra="forbid",
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    env_prefix="FP8BENCH_",
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    env_nested_delimiter="__",
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    nested_model_default_partial_update=True,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by)

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byhome: Path = Path.home() / ".cache" / "fp8bench"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydevice: Literal["auto", "cuda", "cpu"] = "auto"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byrepo: str = "."
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bysuite: str = "smoke"
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bybuild: BuildSettings = BuildSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byworker: WorkerSettings = WorkerSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bytiming: TimingSettings = TimingSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byverdicts: VerdictSettings = VerdictSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymlflow: MlflowSettings = MlflowSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bymail: MailSettings = MailSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byretention: RetentionSettings = RetentionSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bynights: NightSettings = NightSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byairflow: AirflowSettings = AirflowSettings()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byservice: ServiceSettings = ServiceSettings()

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by@classmethod
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydef settings_customise_sources(
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    cls,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    settings_cls: type[BaseSettings],
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    init_settings: PydanticBaseSettingsSource,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    env_settings: PydanticBaseSettingsSource,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    dotenv_settings: PydanticBaseSettingsSource,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    file_secret_settings: PydanticBaseSettingsSource,
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by) -> tuple[PydanticBaseSettingsSource, ...]:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_file())

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by@property
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydef builds_dir(self) -> Path:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    return self.home / "builds"

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by@property
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydef runs_dir(self) -> Path:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    return self.home / "runs"

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by@property
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydef tracking_uri(self) -> str:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    return self.mlflow.tracking_uri or f"sqlite:///{self.home.resolve()}/mlflow.db"

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bydef frozen_json(self) -> str:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    """As stored in a run directory: everything but secrets.

 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    An MLflow address with a password in it is one; stages take it from the settings of now.
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    """
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    secret: dict[str, set[str]] = {"mail": {"password"}}
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    if "@" in urlsplit(self.mlflow.tracking_uri).netloc:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by        secret["mlflow"] = {"tracking_uri"}
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    return self.model_dump_json(indent=1, exclude=secret)


def _refuse_misspelt() -> None:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by"""ConfigError for what would be passed over in silence: a variable that sets nothing, a file that is not there."""
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byif (named := os.environ.get("FP8BENCH_CONFIG")) and not Path(named).exists():
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    raise ConfigError(f"FP8BENCH_CONFIG names {named}, which is not there: name a TOML file, or unset it.")
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byfor variable in os.environ:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    section = variable.removeprefix("FP8BENCH_").partition("__")[0].lower()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    if variable.startswith("FP8BENCH_") and variable not in _NO_SETTINGS and section not in Config.model_fields:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by        raise ConfigError(f"{variable} sets nothing: use FP8BENCH_ with one of {', '.join(Config.model_fields)}.")


def load(**overrides: Any) -> Config:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by"""The resolved settings; ConfigError names the key, the value and what is allowed."""
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by_refuse_misspelt()
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed bytry:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    return Config(**overrides)
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byexcept tomllib.TOMLDecodeError as error:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    raise ConfigError(
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by        f"{_file()} is not TOML ({error}): mend it, or name another file in FP8BENCH_CONFIG."
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    ) from None
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byexcept SettingsError as error:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    raise ConfigError(
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by        f"an FP8BENCH_ environment variable cannot be read: {error}. Lists are written as JSON."
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    ) from None
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed byexcept ValidationError as error:
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    first = error.errors()[0]
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    key = ".".join(map(str, first["loc"]))
 How far the baseline build may be from its recorded times, in the median over a family: the same kernel differed by    raise ConfigError(f"setting {key} = {first['input']!r}: {first['msg']}.") from None
