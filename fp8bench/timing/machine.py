"""What the clocks run on: names, sizes and states of the GPU and the CPU.

NVML (nvidia-ml-py) is optional: what only it knows stays empty without it.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_CPUS = Path("/sys/devices/system/cpu")
_DEFAULT_CACHE_BYTES = 32 << 20  # where the system does not say
_PROBE_S = 0.05
MOST_HELD_DOWN = 0.1  # of a launch: pairing cancels what is shorter

# Bits of nvmlDeviceGetCurrentClocksEventReasons. An idle GPU (bit 0) is not throttled.
THROTTLE_REASONS = {
    0x002: "applications_clocks",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal",
    0x040: "hw_thermal",
    0x080: "hw_power_brake",
}


# ---- CPU ----------------------------------------------------------------------------------------------------


def _parse_size(text: str) -> int:
    """Bytes of "32768K" or "32M"."""
    number, unit = re.fullmatch(r"(\d+)([KMG]?)", text.strip()).groups()  # type: ignore[union-attr]
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit]


def cpu_cache_bytes() -> int:
    """Size of the largest cache that a core of this process can use."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    sizes = [_parse_size(path.read_text()) for path in (_CPUS / f"cpu{core}" / "cache").glob("index*/size")]
    return max(sizes, default=_DEFAULT_CACHE_BYTES)


def _idle_jiffies() -> dict[int, int]:
    """Idle time so far of every core."""
    lines = Path("/proc/stat").read_text().splitlines()
    fields = [line.split() for line in lines if re.match(r"cpu\d", line)]
    return {int(entry[0][3:]): int(entry[4]) for entry in fields}


def least_loaded_core() -> int:
    """The core, of those this process may use, that idled most during a short wait. Linux only."""
    before = _idle_jiffies()
    time.sleep(_PROBE_S)
    after = _idle_jiffies()
    allowed = sorted(os.sched_getaffinity(0) & after.keys() & before.keys()) or sorted(os.sched_getaffinity(0))
    # The last core of equals: interrupts tend to be served by the first.
    return max(allowed, key=lambda core: (after.get(core, 0) - before.get(core, 0), core))


def preemptions() -> int:
    """How often the calling thread lost its core to another since it began; 0 where the system does not count."""
    if sys.platform != "linux":
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _cpuinfo(key: str) -> str:
    """First value of `key` in /proc/cpuinfo, or ""."""
    try:
        match = re.search(rf"^{re.escape(key)}\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match.group(1).strip() if match else ""


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_state() -> dict[str, Any]:
    megahertz, stolen_s = _cpuinfo("cpu MHz"), _stolen_s()
    throttle = None if stolen_s is None else ()  # what takes the cores shows over a launch alone: `marked`
    return {"clock_mhz": float(megahertz) if megahertz else None, "held_s": stolen_s, "throttle": throttle}


def _stolen_s() -> float | None:
    """Seconds, a core, that the hypervisor gave to others since the system started; None where it does not say."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        return int(fields[8]) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
    except (OSError, IndexError, ValueError):
        return None


# ---- GPU ----------------------------------------------------------------------------------------------------


def gpu_uuid() -> str:
    """UUID of torch's current device as the driver's tools print it, with GPU- before it."""
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def _ask_nvml(questions: dict[str, Callable[[Any, Any], Any]]) -> dict[str, Any]:
    """Answers to `questions`, each a function of the NVML module and the device's handle; None where there is none."""
    nothing: dict[str, Any] = dict.fromkeys(questions)
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return nothing
    except pynvml.NVMLError:
        return nothing
    answers = nothing
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid())
        for name, ask in questions.items():
            with suppress(pynvml.NVMLError):
                answers[name] = ask(pynvml, handle)
    except pynvml.NVMLError:
        return nothing
    finally:
        pynvml.nvmlShutdown()
    return answers


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Names of the reasons why the clocks are held down."""
    return tuple(name for bit, name in THROTTLE_REASONS.items() if bits & bit)


def _held_down_s(nvml: Any, gpu: Any) -> float:
    """Seconds since the driver was loaded in which power or heat held the clocks down."""
    policies = (nvml.NVML_PERF_POLICY_POWER, nvml.NVML_PERF_POLICY_THERMAL)
    return float(sum(nvml.nvmlDeviceGetViolationStatus(gpu, policy).violationTime for policy in policies)) * 1e-9


def _gpu_state() -> dict[str, Any]:
    return _ask_nvml(
        {
            "clock_mhz": lambda nvml, gpu: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
            "temperature_c": lambda nvml, gpu: float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
            "power_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "throttle": lambda nvml, gpu: throttle_reasons(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)),
            "held_s": _held_down_s,
        }
    )


def _gpu_description() -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    driver = _ask_nvml({"driver": lambda nvml, _: nvml.nvmlSystemGetDriverVersion()})["driver"]
    return {
        "device_name": gpu.name,
        "device_uuid": gpu_uuid(),
        "device_count": torch.cuda.device_count(),
        "compute_capability": f"{gpu.major}.{gpu.minor}",
        "multiprocessors": gpu.multi_processor_count,
        "l2_bytes": gpu.L2_cache_size,
        "driver": driver or "",
    }


# ---- both ---------------------------------------------------------------------------------------------------


def state(device: str) -> dict[str, Any]:
    """How the machine stands now: clock_mhz, temperature_c, power_w, throttle, held_s, load, at (monotonic, s).

    None where it cannot be read. held_s counts up: the time in which something held the machine down (its clocks, on
    a GPU; its cores, on a virtual CPU). A moment's look would miss what happened in between.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return (_gpu_state() if device == "cuda" else _cpu_state()) | {"load": load, "at": time.monotonic()}


def marked(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The state `after`, throttled by "held_down" where that was so for much of the time since `before`."""
    if before["held_s"] is None or after["held_s"] is None:
        return after
    share = (after["held_s"] - before["held_s"]) / max(after["at"] - before["at"], 1e-3)
    return after | {"throttle": (*(after["throttle"] or ()), "held_down")} if share > MOST_HELD_DOWN else after


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    with suppress(metadata.PackageNotFoundError):
        versions["triton"] = metadata.version("triton")
    return versions


def describe(device: str) -> dict[str, Any]:
    """The machine, as far as it can move a measurement: host, names, sizes in bytes, versions."""
    common = {
        "host": platform.node(),
        "device": device,
        "cpu": cpu_name(),
        "os": f"{platform.system()} {platform.release()}",
        "versions": _versions(),
    }
    if device == "cuda":
        return common | _gpu_description()
    return common | {"device_name": cpu_name(), "device_count": os.cpu_count() or 1, "l2_bytes": cpu_cache_bytes()}
