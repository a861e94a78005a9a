"""Keep a GPU busy from another process, so that a night beside it must end INVALID.

    python ci/gpu/throttle.py --seconds 120 &
    fp8bench nightly --candidate HEAD --baseline HEAD --suite reference

Multiplies large matrices without a pause: the night's blocks are disturbed, and the GPU goes to the limit of its power.
Asks NVML every second what holds the clocks down, and prints each state once with the share of the time that it lasted.
Takes no lock: it is the neighbour that a night cannot know of.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> int:
    options = _options()
    import torch

    if not torch.cuda.is_available():
        print("throttle: no CUDA device is visible: run this on a machine with a GPU.", file=sys.stderr)
        return 4
    from fp8bench.timing import machine

    seen: Counter[str] = Counter()
    for _ in _busy(options.seconds, options.size, options.share):
        state = machine.state("cuda")
        reasons = "nobody can look" if state["throttle"] is None else ", ".join(state["throttle"]) or "not held down"
        seen[reasons] += 1
        if seen[reasons] == 1:
            print(f"{state['clock_mhz']} MHz, {state['power_w']} W, {state['temperature_c']} C: {reasons}", flush=True)
    for reasons, count in seen.most_common():
        print(f"{count / seen.total():.0%} of the time: {reasons}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--size", type=int, default=12288, help="rows of the matrices (12288)")
    parser.add_argument("--share", type=float, default=1.0, help="of the time that it is busy, above 0 up to 1 (1)")
    options = parser.parse_args()
    if options.seconds <= 0 or options.size < 1 or not 0 < options.share <= 1:
        parser.error("--seconds and --size must be above 0, and --share above 0 and at most 1")
    return options


def _busy(seconds: float, size: int, share: float) -> Iterator[None]:
    """Multiply for so many seconds; yields about once a second, while the device goes on."""
    import torch

    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.monotonic()
        while time.monotonic() - begin < 0.5:
            for _ in range(8):
                torch.mm(left, right, out=out)
            torch.cuda.synchronize()
        for _ in range(8):  # in the queue while the state is read
            torch.mm(left, right, out=out)
        yield
        torch.cuda.synchronize()
        time.sleep((time.monotonic() - begin) * (1 / share - 1))


if __name__ == "__main__":
    sys.exit(main())
