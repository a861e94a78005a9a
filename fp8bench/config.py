"""Settings, in layers: defaults < fp8bench.toml < environment (FP8BENCH_SECTION__KEY) < command line.

The resolved settings are frozen into the run directory by `prepare`, without secrets; later stages read them
from there, so a night does not change its mind half-way.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from .errors import ConfigError
from .secrecy import public

SMTP_CONNECTION = "smtp_default"  # of Airflow: where it is there, mails go through it
SMTP_PORT, SMTPS_PORT = 25, 465
_NO_SETTINGS = ("FP8BENCH_CONFIG", "FP8BENCH_NO_NVCC")  # the settings' own file; of ci/setup


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BuildSettings(Section):
    architectures: tuple[str, ...] = ("80", "89", "90", "100")  # sm_XX; those that nvcc lacks are left out
    jobs: int = Field(default=0, ge=0)  # compiler processes; 0: one a core


class WorkerSettings(Section):
    python: str = sys.executable  # interpreter of the GPU environment
    startup_timeout_s: float = Field(default=300, gt=0)
    cell_timeout_s: float = Field(default=120, gt=0)  # a cell that takes longer hangs
    # A command that becomes the worker (it must not fork), to take rights away: ["setpriv", "--reuid=kernels", ...].
    wrapper: tuple[str, ...] = ()
    memory_gb: float = Field(default=0, ge=0)  # of address space, on a CPU alone (CUDA reserves far more); 0: all
    device_wait_s: float = Field(default=7200, ge=0)  # for another night on the same GPU to end


class TimingSettings(Section):
    """How a night spends its time, each with its reason."""

    # Fresh worker processes that screen: most of those that a cell gets before it is confirmed or left alone.
    launches: int = Field(default=6, ge=3)
    # More of them for what was screened: a cell's own noise is then known to a third.
    confirm_launches: int = Field(default=12, ge=3)
    # A cell needs no more launches once half of its interval is below this share of the margin (and, when it is
    # screened, the whole interval within the margin). A cell that moved by two margins is then left alone in fewer
    # than 1 of 1,000 cases. A verdict is worth more: at a third of the margin, confirmations of still cells end after 6
    # launches, which a test at 1% pays with a sixth of the effects that it could see (0.32% instead of 0.27%).
    screen_precision: float = Field(default=3 / 4, ge=0)
    confirm_precision: float = Field(default=1 / 5, ge=0)
    # Launches before an interval is believed. That of three is wide; a verdict must not rest on a spread that is small
    # by luck.
    screen_least: int = Field(default=3, ge=3)
    confirm_least: int = Field(default=6, ge=3)
    # Launches that measure cells of the same machine code in both builds: they must not move, and accuse nobody.
    control_launches: int = Field(default=2, ge=1)
    # The A/A arm: of the cells of a backend that are no controls, this share, and at least so many cells.
    aa_share: float = Field(default=0.05, ge=0, le=1)
    aa_cells: int = Field(default=3, ge=0)
    quads: int = Field(default=8, ge=1)  # ABBA quads of a cell and series
    # Of a cold cell on a GPU so many times more. Its times sway from block to block, so that quads are the cheapest way
    # to precision (0.34 and 0.24% with 5 and 10 of them on an H200); hot ones sway from launch to launch.
    cold_factor: int = Field(default=2, ge=1)
    # Of a CUDA graph, that the quads of a cell are spread over where calls overlap or caches are cold. Calls that
    # overlap take one of several times (1.14 and 1.27 us were seen), which last as long as an executable; small cold
    # cells sway by 0.9% from launch to launch with one and by 0.3% with five. Even: who is made first alternates.
    executables: int = Field(default=4, ge=1)
    # As many executables and quads are added while the standard error of a cell's effect within the launch is above
    # this share of the margin, in so many series at most: what sways between launches is that error, and a series costs
    # less than a launch.
    launch_precision: float = Field(default=1 / 2, ge=0)
    cold_launch_precision: float = Field(default=1.0, ge=0)
    series: int = Field(default=10, ge=1)
    block_ms: float = Field(default=0.5, gt=0)  # aimed length of one timed block
    warmup_ms: float = Field(default=5.0, ge=0)
    # Slowdowns to be really made, to see whether they are caught: pattern of cell ids -> share, the first that matches
    # counts (`fp8bench.planting`). Such a night says so everywhere, and nothing that it finds outlives it.
    planted: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)


class VerdictSettings(Section):
    """Thresholds of the verdicts, each with its reason. Effects are log-ratios: 0.01 is 1% slower."""

    # Smallest effect worth an alert. Nights resampled from H200 launches, with `margin_spread`: docs/measurement.md.
    margin_cuda: float = Field(default=0.002, ge=0)
    # A busy 2-core machine moves single cells by 2-3% between launches.
    margin_cpu: float = Field(default=0.03, ge=0)
    # A cell whose launches sway must move by this many of their standard deviations: where its code and buffers
    # happen to lie makes a difference that lasts for a night (0.2% at a deviation of 0.3% was seen between relinked
    # builds of the same kernels), and no number of launches averages that out.
    margin_spread: float = Field(default=1.5, ge=0)
    # Of the one-sided test that decides what is confirmed, per cell: lower spares launches, and misses more.
    screen_alpha: float = Field(default=0.10, gt=0, lt=0.5)
    # False discovery rate over the cells (and over the families) that were screened that night. Most nights screen a
    # handful, so a night's false alarms are about this rate, and 5% of the nights that screen would be too many.
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    # Of the smallest effect that a night promises to catch.
    power: float = Field(default=0.80, gt=0.5, lt=1)
    # Of the intervals that are shown, and that an OK rests on.
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    # Margins that an OK must exclude. At one, 13% of the unchanged cells of an H200 are unresolved every night, not 4%.
    resolution: float = Field(default=2.0, ge=1)
    # Fewer launches give no interval worth the name.
    min_launches: int = Field(default=3, ge=3)
    # Pairing cancels short throttling; a night that throttles in more launches than this measured another machine.
    max_throttled_share: float = Field(default=0.25, ge=0, le=1)
    # Blocks are dropped for what happened to the machine while they ran; more than this, and it held still too little.
    max_dropped_share: float = Field(default=0.25, ge=0, le=1)
    # When less of what should have been timed was, silence would mean nothing.
    min_timed_share: float = Field(default=0.5, ge=0, le=1)
    # How far the baseline build may be from its recorded times, in the median over a family: one kernel differed by
    # 4.5% between machines of one model and by 3.6% between processes, so less is nobody's news.
    shift_cuda: float = Field(default=0.06, ge=0)
    # Whole devices launch hot calls at one of two speeds, 0.18 us apart (H200), which lasts: less is nobody's news.
    shift_least_us: float = Field(default=0.25, ge=0)
    # A CPU's clock and neighbours change from day to day.
    shift_cpu: float = Field(default=0.25, ge=0)

    def margin(self, device: str) -> float:
        return self.margin_cuda if device == "cuda" else self.margin_cpu

    def shift(self, device: str) -> float:
        return self.shift_cuda if device == "cuda" else self.shift_cpu


class MlflowSettings(Section):
    tracking_uri: str = ""  # default: SQLite in the home directory
    experiment: str = "fp8bench"
    ui_url: str = ""  # base of the links in report and mail


class MailSettings(Section):
    to: tuple[str, ...] = ()  # who hears of kernels; nobody: those in `operators`
    operators: tuple[str, ...] = ()  # who hears of invalid nights and shifted machines; nobody: those in `to`
    sender: str = "fp8bench@localhost"
    host: str = ""  # "": messages stay in the outbox
    port: int = Field(default=SMTP_PORT, ge=1, le=65535)
    user: str = ""
    password: SecretStr = SecretStr("")
    security: Literal["none", "starttls", "tls"] = "none"
    digest: bool = True  # the first night of a week sends what the last one was like: silence alone proves nothing

    @property
    def about_kernels(self) -> tuple[str, ...]:
        """Who gets the mails about kernels."""
        return self.to or self.operators

    @property
    def about_machines(self) -> tuple[str, ...]:
        """Who gets the mails about nights and machines that do not hold still."""
        return self.operators or self.to


class RetentionSettings(Section):
    """What `fp8bench prune` leaves, each with its reason. MLflow keeps every night's numbers whatever this says."""

    # Finished nights whose run directory stays, newest first: a quarter, to look back at raw samples and logs.
    keep_nights: int = Field(default=90, ge=1)
    # An unfinished night can be resumed for so long; never less than a day, in which it may still be running.
    keep_unfinished_days: float = Field(default=7, ge=1)
    # Since a build was last used. It can be compiled again at any time; a month spares bisections most of that.
    keep_builds_days: float = Field(default=30, ge=1)


class NightSettings(Section):
    """What is measured when nobody names a commit, and on how many GPUs."""

    branch: str = ""  # whose latest commit is measured; "": the default branch of a URL, the HEAD of a path
    # A night whose kernels are those of the baseline: a control, which proves that the machine holds still, or skipped.
    unchanged: Literal["control", "skip"] = "control"
    max_commits: int = Field(default=20, ge=1)  # that get a night each at one look for new ones
    shards: int = Field(default=0, ge=0)  # GPUs that share a night; 0: all of the machine that prepares it


class AirflowSettings(Section):
    schedule: str = "0 2 * * *"
    commits_schedule: str = ""  # when to look for commits that get a night each; "": never
    # Nights that were missed while nothing ran: only the latest is made up for, or each of them, or none.
    catch_up: Literal["latest", "all", "none"] = "latest"
    pool: str = "gpu"
    queue: str = "default"  # of the GPU tasks
    # More kinds of GPU, each with a DAG, a pool (`<pool>_<name>`) and baselines of its own: name -> queue.
    fleets: dict[Annotated[str, Field(pattern=r"^[a-z0-9]{1,20}$")], str] = Field(default_factory=dict)
    control_queue: str = "default"  # of all others; the GPU tasks' own where machines share no file system
    pod_template: str = ""  # of the GPU tasks on Kubernetes: a file that Airflow's scheduler can read
    executor: str = ""  # of the GPU tasks; "": Airflow's own default
    retries: int = Field(default=1, ge=0)
    retry_delay_s: float = Field(default=60, ge=0)


class ServiceSettings(Section):
    """Where `make up` serves, on the loopback interface alone."""

    airflow_port: int = Field(default=8080, ge=1, le=65535)
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    index_port: int = Field(default=8090, ge=1, le=65535)  # the page over all nights


def _file() -> Path:
    return Path(os.environ.get("FP8BENCH_CONFIG", "fp8bench.toml"))


def _expanded(path: Path) -> Path:
    """`~` and `~user` as a shell would take them."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error} Write the path out") from None


class Config(BaseSettings):
    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="FP8BENCH_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    home: Annotated[Path, AfterValidator(_expanded)] = Path.home() / ".cache" / "fp8bench"
    device: Literal["auto", "cuda", "cpu"] = "auto"
    repo: str = "."
    suite: str = "smoke"
    build: BuildSettings = BuildSettings()
    worker: WorkerSettings = WorkerSettings()
    timing: TimingSettings = TimingSettings()
    verdicts: VerdictSettings = VerdictSettings()
    mlflow: MlflowSettings = MlflowSettings()
    mail: MailSettings = MailSettings()
    retention: RetentionSettings = RetentionSettings()
    nights: NightSettings = NightSettings()
    airflow: AirflowSettings = AirflowSettings()
    service: ServiceSettings = ServiceSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_file())

    @property
    def builds_dir(self) -> Path:
        return self.home / "builds"

    @property
    def runs_dir(self) -> Path:
        return self.home / "runs"

    @property
    def tracking_uri(self) -> str:
        return self.mlflow.tracking_uri or f"sqlite:///{self.home.resolve()}/mlflow.db"

    @property
    def offered_repo(self) -> str:
        """`repo` as others may be told to ask for it; "" where that would tell its password, and means `repo` too."""
        return self.repo if public(self.repo) == self.repo else ""

    def with_planted(self, planted: dict[str, float]) -> Config:
        """These settings with exactly `planted`: layers of settings would add their patterns up."""
        return self.model_copy(update={"timing": self.timing.model_copy(update={"planted": planted})})

    def frozen_json(self) -> str:
        """As stored in a run directory: everything but secrets, and no address with its user and password.

        An MLflow address that has them is left out; stages take it from the settings of now.
        """
        secret: dict[str, set[str]] = {"mail": {"password"}}
        if public(self.mlflow.tracking_uri) != self.mlflow.tracking_uri:
            secret["mlflow"] = {"tracking_uri"}
        return public(self.model_dump_json(indent=1, exclude=secret))


class SmtpConnection(Protocol):
    """What Airflow knows of a mail host."""

    host: str | None
    port: int | None
    login: str | None
    password: str | None

    @property
    def extra_dejson(self) -> dict[str, Any]: ...


def through_connection(get: Callable[[str], SmtpConnection], missing: type[Exception]) -> dict[str, str]:
    """The environment in which fp8bench mails through Airflow's connection `smtp_default`; {} where there is none.

    get: finds a connection, or raises `missing`. So all that is known of refusals, retries and recipients holds for
    these mails too. ConfigError for a connection that needs what fp8bench does not do.
    """
    try:
        found = get(SMTP_CONNECTION)
    except missing:
        return {}
    extra = found.extra_dejson
    why = "names no host" if not found.host else ""
    why = "asks for oauth2" if extra.get("auth_type") == "oauth2" else why
    why = "asks for no check of certificates" if extra.get("ssl_context") == "none" else why
    if why:
        raise ConfigError(
            f"Airflow's connection {SMTP_CONNECTION} {why}: give it a host, a login with a password or none, and TLS "
            "that can be checked or none; or remove it, and set [mail] of fp8bench.toml."
        )
    tls, starttls = not extra.get("disable_ssl", False), not extra.get("disable_tls", False)
    settings = {
        "host": found.host,
        "port": found.port or (SMTPS_PORT if tls else SMTP_PORT),
        "user": found.login if found.login and found.password else "",
        "password": found.password or "",
        "security": "tls" if tls else "starttls" if starttls else "none",
    }
    settings |= {"sender": extra["from_email"]} if extra.get("from_email") else {}
    return {f"FP8BENCH_MAIL__{name.upper()}": str(value) for name, value in settings.items()}


def _refuse_misspelt() -> None:
    """ConfigError for what would be passed over in silence: a variable that sets nothing, a file that is none."""
    named = os.environ.get("FP8BENCH_CONFIG")
    if named and named != os.devnull and not Path(named).is_file():  # the null device: no file at all
        raise ConfigError(f"FP8BENCH_CONFIG names {named}, which is no file: name a TOML file, or unset it.")
    for variable in os.environ:
        section = variable.removeprefix("FP8BENCH_").partition("__")[0].lower()
        if variable.startswith("FP8BENCH_") and variable not in _NO_SETTINGS and section not in Config.model_fields:
            raise ConfigError(f"{variable} sets nothing: use FP8BENCH_ with one of {', '.join(Config.model_fields)}.")


def _annotation(keys: Sequence[str]) -> Any:
    """The type of the setting `keys`, e.g. ("mail", "to"), or of a section; None where there is no such setting."""
    found: Any = Config
    for key in keys:
        field = getattr(found, "model_fields", {}).get(key)
        found = field.annotation if field else None
    return found


def _unreadable() -> str:
    """Which environment variable is not the JSON that its setting takes, and what to write; "" where all are."""
    for variable, value in os.environ.items():
        kind = _annotation(variable.removeprefix("FP8BENCH_").lower().split("__"))
        if not variable.startswith("FP8BENCH_") or not (
            get_origin(kind) in (tuple, dict) or hasattr(kind, "model_fields")
        ):
            continue
        try:
            json.loads(value)
        except ValueError:
            if get_origin(kind) is tuple:
                return f"{variable} = {value!r} is no list: write it as JSON, e.g. {json.dumps([value])}."
            return f'{variable} is no table: write it as JSON, e.g. {{"key": "value"}}.'
    return ""


def _refusal(error: ErrorDetails) -> str:
    """One sentence on a value that a setting does not take."""
    keys = [str(part) for part in error["loc"]]
    key, given = ".".join(keys), error["input"]
    if error["type"] == "extra_forbidden":
        section = _annotation(keys[:-1])
        where = f" of [{'.'.join(keys[:-1])}]" if keys[1:] else ""
        return f"there is no setting {key}: use {', '.join(section.model_fields)}{where}."
    if error["type"] == "tuple_type":
        return f"setting {key} = {given!r} is no list: write {json.dumps([given], default=str)}."
    if error["type"] == "model_type":
        return f"setting {key} = {given!r} is a section: write its keys below [{key}]."
    return f"setting {key} = {given!r}: {error['msg'].replace('Input should be', 'it should be')}."


def load(**overrides: Any) -> Config:
    """The resolved settings; ConfigError names the key, the value and what is allowed."""
    try:
        _refuse_misspelt()
        return Config(**overrides)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{_file()} is not TOML ({error}): mend it, or name another file in FP8BENCH_CONFIG."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{_file()} cannot be read ({error.strerror}): mend that, or name another file in FP8BENCH_CONFIG."
        ) from None
    except SettingsError as error:
        raise ConfigError(_unreadable() or f"an FP8BENCH_ environment variable cannot be read: {error}.") from None
    except ValidationError as error:
        raise ConfigError(_refusal(error.errors()[0])) from None
