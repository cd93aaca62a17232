"""Checks, when the native package is first used, that the libraries are the ones whose layouts we rely on.

A wrong offset would not fail: it would read garbage. So the few facts that our own declarations assume are compared
with what the library does.
"""

from __future__ import annotations

import ctypes

from cotcli.errors import CotcliError
from cotcli.native import devices, ggml
from cotcli.native.library import PINNED, llama_cpp

GGML_VERSION = "0.25.3"


def check() -> None:
    """Raises CotcliError with the pip command to run when any assumption does not hold."""
    problem = _problem()
    if problem:
        from importlib.metadata import version as package_version

        raise CotcliError(
            f"llama-cpp-python {package_version('llama-cpp-python')} is not what cotcli needs: {problem}",
            f"Install the pinned release: pip install --force-reinstall {PINNED}",
        )


def _problem() -> str | None:
    found = ggml.version().decode()
    if found != GGML_VERSION:
        return f"ggml is {found}, expected {GGML_VERSION}"
    if ggml.tensor_overhead() != 368 or ctypes.sizeof(ggml.ggml_tensor) != 336:
        return f"ggml_tensor takes {ggml.tensor_overhead()} bytes with its object header, expected 368"
    with ggml.Arena(4) as arena:
        a = arena.tensor(ggml.F16, 3, 5)
        t = ggml.fields(arena.view(a, (2, 5), offset=2))
        if list(t.ne) != [2, 5, 1, 1] or list(t.nb) != [2, 6, 30, 30] or t.view_src != a or t.view_offs != 2:
            return "the fields of ggml_tensor are not where they are expected"
    devices.start()
    cpu = devices.cpu()
    if (cpu.name, cpu.kind, cpu.from_file, cpu.loads_mapped) != (
        "CPU",
        devices.CPU,
        True,
        True,
    ) or cpu.free > cpu.total:
        return "the fields of ggml_backend_dev_props are not where they are expected"
    model = llama_cpp.llama_model_default_params()
    if (model.devices, model.n_gpu_layers, model.split_mode, model.no_alloc) != (None, -1, 1, False):
        return "llama_model_params has unexpected defaults"
    params = llama_cpp.llama_context_default_params()
    facts = (params.n_batch, params.n_ubatch, params.n_seq_max, params.type_k, params.type_v, params.offload_kqv)
    if facts != (2048, 512, 1, ggml.F16, ggml.F16, True):
        return f"llama_context_params has unexpected defaults {facts}"
    return None
