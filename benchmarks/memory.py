"""What a model takes, by the plan that loading it goes by, and what it really takes on the CPU.

    python -m benchmarks.memory PAIR                 README's table: some layers on a GPU of any size, several answers
    python -m benchmarks.memory PAIR --load          loads it on the CPU and compares (Linux)

A GPU is only assumed: one whose memory is its own and which pads no tensors.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cotcli.engine import Engine, EngineOptions
from cotcli.memory import Pair, plan, read_pair
from cotcli.mllama.weights import WeightFile
from cotcli.native import devices
from cotcli.registry import resolve


def table(pair: Pair, context: int) -> Table:
    """README's, in GB (10^9 bytes)."""
    rows = Table("layers on the GPU", "answers at once", "GPU", "host, resident", "host, mapped")
    gpu = replace(devices.cpu(), name="GPU", kind=devices.GPU, host_memory=False, from_file=False, host_buffers=True)
    all_layers = pair.n_layers + 1
    for layers, answers in ((0, 1), (all_layers // 3, 1), (2 * all_layers // 3, 1), (all_layers, 1), (0, 8), (-1, 8)):
        demand = EngineOptions(context_length=context, max_sequences=answers).demand
        planned = plan(pair, demand, [gpu] if layers else [], layers)
        device = sum(amounts.total for _, amounts in planned.devices)
        sizes = (device, planned.host.resident, planned.host.mapped)
        rows.add_row(f"{planned.gpu_layers} of {all_layers}", str(answers), *(f"{size / 1e9:.2f}" for size in sizes))
    return rows


def resident() -> int:
    """Bytes of this process' own memory, without files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a path, as for cotcli --model")
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--load", action="store_true")
    given = parser.parse_args()
    files = resolve(given.model)
    Console().print(table(read_pair(files.language, WeightFile(files.mmproj)), given.ctx))
    if given.load:
        before = resident()
        with Engine(files.language, files.mmproj, EngineOptions(context_length=given.ctx)) as engine:
            host = engine.placement.plan.host
            later = host.images + host.encoder + host.compute  # taken when there is a picture and a prompt
            print(f"planned after loading: {(host.resident - later) / 1e9:.2f} GB")
            print(f"taken: {(resident() - before) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
