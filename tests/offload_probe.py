"""An engine on an RPC device, in a process of its own, since a device cannot be taken back from a process.

    python -m tests.offload_probe OUT.npz HOST:PORT LANGUAGE MMPROJ GPU_LAYERS WHAT

WHAT is `whole`, or `language`: the vision states are then the CPU's. Writes states and logits of the cases, where the
cross-attention layers were, what was planned and what libllama says it has allocated.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cotcli.engine import Engine, EngineOptions
from cotcli.native import devices, log
from tests.engine_cases import CASES

RECIPE = "mqa-neighbours"


def options(gpu_layers: int) -> EngineOptions:
    return EngineOptions(gpu_layers=gpu_layers, threads=1, ubatch=48, context_length=512)


def main(out: str, endpoint: str, language: str, mmproj: str, layers: str, what: str) -> None:
    devices.add_rpc_server(endpoint)
    files = Path(language), Path(mmproj)
    cases = [case for case in CASES if case.recipe == RECIPE]
    result: dict[str, Any] = {}
    cpu_states: dict[str, Any] = {}
    if what == "language":
        with Engine(*files, options(0)) as engine:
            cpu_states = {case.name: engine.encode(case.picture) for case in cases if case.picture}  # type: ignore[arg-type]
    said, sys.stderr = sys.stderr, io.StringIO()
    log.show(True)
    try:
        engine = Engine(*files, options(int(layers)))
    finally:
        log.show(False)
        said, sys.stderr = sys.stderr, said
    assert isinstance(said, io.StringIO)
    sizes = re.findall(r"(\w+)\S*\s+(model|KV) buffer size =\s*([\d.]+) MiB", said.getvalue())
    with engine:
        for case in cases:
            picture, image = case.picture, None
            if picture is not None:
                states = cpu_states.get(case.name)
                states = engine.encode(picture) if states is None else states  # type: ignore[arg-type]
                image = engine.load_image(states, picture.num_tiles)
                result[f"{case.name}/states"] = states
            sequence = engine.sequence(image)
            if image is not None:
                engine.release_image(image)
            result[f"{case.name}/logits"] = np.stack([row.copy() for row in engine.each_logits(sequence, case.tokens)])
            engine.drop(sequence)
        plan = engine.placement.plan
        result["places"] = np.array([layer.backend.name for layer in engine._hook.layers])
        result["planned_places"] = np.array(plan.cross_attention)
        result["planned"] = np.array(
            [f"{device.name} {amounts.language} {amounts.kv_cache}" for device, amounts in plan.devices]
        )
    result["allocated"] = np.array([f"{where} {kind} {float(size) * 2**20}" for where, kind, size in sizes])
    np.savez(out, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
