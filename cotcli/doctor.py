"""What there is to run on and with, and whether it works: `cotcli doctor` without its words.

Collects; decides only what counts as a problem, each with the next step. Loads no model but the bundled one, for the
self-test, which runs in processes of its own. A model's place is decided just as loading it would.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING

from cotcli import __version__
from cotcli.diagnosis import (
    CHECKED,
    DIFFERS,
    UNCHECKED,
    UNKNOWN,
    CacheReport,
    Cpu,
    DefaultReport,
    DeviceReport,
    ModelReport,
    PathReport,
    Problem,
    Report,
    Share,
    Versions,
)
from cotcli.errors import CotcliError, ModelError, ModelNotFoundError, ResourceError
from cotcli.specs import MODELS_TOML, home

if TYPE_CHECKING:
    from cotcli.native.devices import DeviceInfo
    from cotcli.registry import ResolvedModel

_QUICK_BYTES = 100_000_000  # what is read while one waits


def examine(
    config: Path,
    *,
    rpc: Sequence[str] = (),
    verify: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Report:
    """Looks at everything.

    Args:
        config: the config file, whether it exists or not.
        rpc: HOST:PORT of machines whose devices count too; one that does not answer is a problem among the others.
        verify: also compare every model's files with their checksums, which reads them whole.
        on_step: called with what is being looked at.
    """
    versions = _versions()
    try:
        import cotcli.native  # noqa: F401  # checks that the library is the one we know
    except CotcliError as error:
        return Report(versions, None, (), (), None, _caches(), _paths(config), (_problem(error),))
    from cotcli.native import devices as native

    problems: list[Problem] = []
    rpc = _answering(rpc, problems)
    known = native.all_devices()
    offload = {device.name for device in native.offload_devices(known)}
    devices = [_device(device, device.name in offload) for device in known]
    if _can_test(problems):
        for i, device in enumerate(devices):
            if device.type in (native.CPU, native.GPU, native.IGPU):
                on_step(f"Self-test on {device.name}")
                devices[i] = _tested(device, rpc, problems)
    models = [_model(pair, verify, on_step, problems) for pair in _installed(problems)]
    return Report(
        _with_libraries(versions),
        _cpu(known),
        tuple(devices),
        tuple(models),
        _default(),
        _caches(),
        _paths(config),
        tuple(problems),
    )


def _answering(rpc: Sequence[str], problems: list[Problem]) -> list[str]:
    """The RPC servers whose devices there are now."""
    from cotcli.native import devices as native

    answering = []
    for endpoint in rpc:
        try:
            native.add_rpc_server(endpoint)
        except CotcliError as error:
            problems.append(_problem(error))
        else:
            answering.append(endpoint)
    return answering


def _versions() -> Versions:
    try:
        bindings = package_version("llama-cpp-python")
    except PackageNotFoundError:
        bindings = None
    return Versions(__version__, platform.python_version(), platform.platform(), bindings)


def _with_libraries(versions: Versions) -> Versions:
    from cotcli.native import about

    llama_cpp, ggml, commit = about.versions()
    return replace(versions, llama_cpp=llama_cpp, ggml=ggml, ggml_commit=commit)


def _cpu(known: Sequence[DeviceInfo]) -> Cpu:
    from cotcli.native import devices as native
    from cotcli.native.about import cpu_features
    from cotcli.native.cpu import available_threads
    from cotcli.native.host_memory import host_memory

    memory = host_memory()
    name = next((device.description for device in known if device.kind == native.CPU), platform.machine())
    return Cpu(name, cpu_features(), available_threads(), memory.total, memory.available, memory.limit)


def _device(device: DeviceInfo, offload: bool) -> DeviceReport:
    from cotcli.native import devices as native
    from cotcli.native.host_memory import host_memory

    total, free = device.total, device.free
    if device.kind == native.CPU:  # ggml calls all of it free
        host = host_memory()
        total, free = host.total, host.available
    return DeviceReport(device.name, device.description, device.kind, device.backend, total, free, offload)


def _can_test(problems: list[Problem]) -> bool:
    from cotcli.selftest import check_files

    try:
        check_files()
    except CotcliError as error:
        problems.append(_problem(error))
        return False
    return True


def _problem(error: CotcliError, about: str = "") -> Problem:
    return Problem(about + error.message, error.hint, error.exit_code)


def _tested(device: DeviceReport, rpc: Sequence[str], problems: list[Problem]) -> DeviceReport:
    from cotcli.native.library import PINNED
    from cotcli.selftest import run_apart

    is_cpu = device.type == "cpu"
    result = replace(run_apart("cpu" if is_cpu else device.name, rpc), device=device.name)
    if not result.ok:
        hint = (
            f"Install the pinned release again: pip install --force-reinstall --no-cache-dir {PINNED}"
            if is_cpu
            else "Until it works: --device cpu, or name another with --device; a newer driver may mend it"
        )
        problems.append(Problem(f"{device.name} fails the self-test: {result.problem}", hint, ResourceError.exit_code))
    return replace(device, self_test=result)


def _installed(problems: list[Problem]) -> list[ResolvedModel]:
    from cotcli.registry import installed

    try:
        return installed()
    except CotcliError as error:  # the user's models.toml
        problems.append(_problem(error))
        return []


def _default() -> DefaultReport | None:
    from cotcli.registry import resolve
    from cotcli.specs import default_model

    try:
        name = default_model()
    except CotcliError:  # told of by _installed
        return None
    try:
        resolve(name)
    except ModelNotFoundError as error:
        return DefaultReport(name, False, error.hint)
    except CotcliError:  # one of several that are installed has to be named
        pass
    return DefaultReport(name, True, None)


def _model(pair: ResolvedModel, verify: bool, on_step: Callable[[str], None], problems: list[Problem]) -> ModelReport:
    from cotcli.engine import EngineOptions
    from cotcli.memory import read_pair
    from cotcli.mllama.weights import WeightFile
    from cotcli.placement import place

    name = f"{pair.spec.name}:{pair.quant}"
    files = UNKNOWN
    options = EngineOptions(gpu_layers="auto")
    try:
        files = _compare(pair, verify, on_step)
        if files == DIFFERS:
            problems.append(
                Problem(
                    f"{name}: its files are not what they were when it was installed",
                    _again(pair),
                    ModelError.exit_code,
                )
            )
        placement = place(read_pair(pair.language, WeightFile(pair.mmproj)), options.demand, options.choice)
    except CotcliError as error:
        problems.append(_problem(error, f"{name}: "))
        return ModelReport(pair.spec.name, pair.quant, _size(pair), files, None, None, (error.message,), ())
    placed = placement.plan
    shares = [("host", placed.host), *((device.name, amounts) for device, amounts in placed.devices)]
    return ModelReport(
        pair.spec.name,
        pair.quant,
        _size(pair),
        files,
        placed.gpu_layers,
        placed.all_layers,
        placement.notes,
        tuple(Share(place, amounts.resident, amounts.mapped) for place, amounts in shares),
    )


def _compare(pair: ResolvedModel, verify: bool, on_step: Callable[[str], None]) -> str:
    """The pair's files against their checksums; large files only if that is asked for."""
    from cotcli.files import checksum

    expected = {pair.language: pair.sha256, pair.mmproj: pair.mmproj_sha256}
    known = {path: digest for path, digest in expected.items() if digest}
    if not known:
        return UNKNOWN
    if not verify and pair.size > _QUICK_BYTES:
        return UNCHECKED
    for path, digest in known.items():
        on_step(f"Reading {path.name}")
        try:
            if checksum(path) != digest:
                return DIFFERS
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}", _again(pair)) from error
    return CHECKED


def _again(pair: ResolvedModel) -> str:
    from cotcli.registry import how_to_install_again

    return f"To install it again: {how_to_install_again(pair.spec, pair.quant)}"


def _size(pair: ResolvedModel) -> int:
    try:
        return pair.size
    except OSError:
        return 0


def _caches() -> tuple[CacheReport, ...]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from cotcli.image_cache import ImageCache

    images = ImageCache()
    return (
        CacheReport("pictures", str(images.folder), images.usage().bytes),
        CacheReport("downloads", HF_HUB_CACHE, _size_on_disk(Path(HF_HUB_CACHE))),
    )


def _size_on_disk(folder: Path) -> int | None:
    """Of the Hugging Face cache, which other programs use too."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return int(scan_cache_dir(folder).size_on_disk)
    except (CacheNotFound, OSError, ValueError):
        return None


def _paths(config: Path) -> tuple[PathReport, ...]:
    places = {"home": home(), "models": home() / "models", "models.toml": home() / MODELS_TOML, "config": config}
    return tuple(PathReport(name, str(path), path.exists()) for name, path in places.items())
