"""Time and peak memory of one conversion, measured in this process.

    python -m benchmarks.convert_speed CHECKPOINT OUT [--type q4_k_m] [--threads N]

Prints wall and CPU seconds, the peak resident set (shards are read, not mapped, so the page cache is not in it) and the
sizes of both files.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

from convert import QUANTIZATIONS, convert


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one conversion.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=list(QUANTIZATIONS), default="q4_k_m")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    start = time.perf_counter()
    pair = convert(options.checkpoint, options.out, options.type, threads=options.threads)
    wall = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{pair.quantization}, vision {pair.vision_type}: {wall:.0f} s wall, {usage.ru_utime:.0f} s CPU")
    print(f"peak resident set {peak / 1e9:.2f} GB")
    for path, size in ((pair.language, pair.language_bytes), (pair.mmproj, pair.mmproj_bytes)):
        print(f"{path.name} {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
