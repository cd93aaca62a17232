"""Which layers go on which device, and whether the memory is there for it; decided before anything is loaded.

Asks the devices how much they have free. Says what it chose in words for the user, and prints nothing.

    auto    as many layers as fit into what the devices have free, less a reserve on each, without those devices that
            are too full to help; the vision tower and the cross-attention layers are counted with the layers they go
            with
    N, all  so many, or a refusal
    host    what must be resident has to fit, or it is refused; if only the mapped weights do not, it runs from disk,
            which is slow but right, and is said
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from cotcli.errors import ResourceError, UsageError
from cotcli.install import size_text
from cotcli.memory import Demand, MemoryPlan, Pair, plan
from cotcli.native import devices as native
from cotcli.native.devices import DeviceInfo
from cotcli.native.host_memory import HostMemory, host_memory

GpuLayers: TypeAlias = int | Literal["auto", "all"]

ALL = -1
RESERVE = 2**30
"""Bytes that auto leaves free on each device: for the driver's and the backend's own, which no plan can know, and for
whatever else uses it. llama.cpp's own fitting leaves as much."""
TINY_MODEL = 100e6  # bytes of both files' tensors; where such a one runs hardly matters
_HOST_SHARE = 0.95  # of what is available: some of it is always spoken for by the time it is used


@dataclass(frozen=True)
class Choice:
    """What the user says about devices.

    Attributes:
        gpu_layers: how many layers, the output matrix being one, from the last on; -1 or "all"; or "auto".
        device: names of devices, separated by commas; "cpu" for none; None for those libllama would take.
        require_gpu: refuse to run without any layer on a device.
        check_memory: refuse what does not fit.

    Raises:
        UsageError: they contradict each other.
    """

    gpu_layers: GpuLayers = "auto"
    device: str | None = None
    require_gpu: bool = False
    check_memory: bool = True

    def __post_init__(self) -> None:
        layers = self.gpu_layers
        if layers not in ("auto", "all") and not (isinstance(layers, int) and -1 <= layers < 2**31):
            raise UsageError(f"gpu_layers must be auto, all (-1) or a number, not {layers}")
        if self.is_cpu and self.gpu_layers not in ("auto", 0):
            raise UsageError("--device cpu puts no layers on a GPU", "Leave out --gpu-layers, or name another device")
        if self.require_gpu and (self.is_cpu or self.gpu_layers == 0):
            what = "--device cpu" if self.is_cpu else "--gpu-layers 0"
            raise UsageError(f"--require-gpu and {what} exclude each other", "Leave out one of them")

    @property
    def is_cpu(self) -> bool:
        return self.device is not None and self.device.strip().lower() == "cpu"


@dataclass(frozen=True)
class Placement:
    """What was decided.

    Attributes:
        devices: those for libllama to use, none when nothing is offloaded.
        plan: what is taken where.
        notes: what the user should know, a line each.
    """

    devices: tuple[DeviceInfo, ...]
    plan: MemoryPlan
    notes: tuple[str, ...] = ()

    @property
    def gpu_layers(self) -> int:
        return self.plan.gpu_layers


def place(pair: Pair, demand: Demand, choice: Choice) -> Placement:
    """Decides for a model on this machine, now.

    Raises:
        UsageError: there is no device of that name.
        ResourceError: it does not fit, or nothing would be offloaded though that is required.
    """
    usable = [] if choice.is_cpu or choice.gpu_layers == 0 else chosen_devices(choice.device)
    return decide(pair, demand, choice, usable, host_memory())


def chosen_devices(names: str | None) -> list[DeviceInfo]:
    """The devices of these names, or those that libllama would take.

    Raises:
        UsageError: there is no such device; the hint lists those there are.
    """
    known = native.all_devices()
    if names is None:
        return native.offload_devices(known)
    usable = {device.name.lower(): device for device in known if device.kind in (native.GPU, native.IGPU)}
    chosen: dict[str, DeviceInfo] = {}
    for name in (name.strip() for name in names.split(",")):
        if name.lower() not in usable:
            if name.lower() == "cpu":
                raise UsageError("--device cpu stands alone", "Leave out either it or the others")
            there = ", ".join(["cpu", *(device.name for device in usable.values())])
            raise UsageError(f"there is no device {name}", f"There are: {there}; cotcli doctor tells more")
        chosen[name.lower()] = usable[name.lower()]
    return list(chosen.values())


def decide(pair: Pair, demand: Demand, choice: Choice, devices: Sequence[DeviceInfo], host: HostMemory) -> Placement:
    """As ``place``, from what is known of devices and memory."""
    notes: list[str] = []
    placed = _planned(pair, demand, choice, devices)
    if choice.gpu_layers == "auto":
        notes += _auto_note(pair, demand, devices, placed)
    elif choice.gpu_layers != 0 and not devices:
        notes.append("there is no GPU to put layers on: everything runs on the CPU (cotcli doctor)")
    if choice.require_gpu and placed.gpu_layers == 0:
        raise ResourceError(
            "nothing would run on a GPU" + (f": {notes[0]}" if devices and notes else ": none is usable"),
            "To see what there is: cotcli doctor",
        )
    if choice.check_memory:
        _check_devices(pair, demand, devices, placed)
        _check_host(pair, demand, choice, devices, placed, host)
    free = size_text(host.available)
    if placed.host.resident > host.available:  # and was not to be checked
        notes.append(f"it needs {size_text(placed.host.resident)} of memory and {free} is free: the system may end it")
    elif placed.host.total > host.available:
        notes.append(
            f"the weights are read from disk again and again, which is slow: all would take "
            f"{size_text(placed.host.total)} of memory and {free} is free"
        )
    return Placement(tuple(device for device, _ in placed.devices), placed, tuple(notes))


def _planned(pair: Pair, demand: Demand, choice: Choice, devices: Sequence[DeviceInfo]) -> MemoryPlan:
    if choice.gpu_layers == "auto":
        return largest_fit(pair, demand, devices)
    return plan(pair, demand, devices, ALL if choice.gpu_layers == "all" else choice.gpu_layers)


def largest_fit(pair: Pair, demand: Demand, devices: Sequence[DeviceInfo]) -> MemoryPlan:
    """The plan with the most layers that fits the devices with the reserve left; none if not even one does.

    libllama gives each device a share by what it has free, the reserve included. One that is nearly full would hold the
    others back by its share, or by the reserve alone, so the fullest are left out where that lets more layers fit.
    """
    usable = [device for device in devices if _fits(device, RESERVE)]
    best = plan(pair, demand, usable, 0)
    while usable:
        for layers in range(best.all_layers, best.gpu_layers, -1):
            candidate = plan(pair, demand, usable, layers)
            if all(_fits(device, amounts.total + RESERVE) for device, amounts in candidate.devices):
                best = candidate
                break
        usable.remove(min(usable, key=_room))
    return best


def _room(device: DeviceInfo) -> float:
    return device.free if device.known_memory else float("inf")


def _fits(device: DeviceInfo, need: int) -> bool:
    return not device.known_memory or need <= device.free


def _auto_note(pair: Pair, demand: Demand, devices: Sequence[DeviceInfo], placed: MemoryPlan) -> list[str]:
    if not devices:
        if pair.n_bytes < TINY_MODEL:
            return []
        return ["no GPU is in use, since llama-cpp-python finds none: everything runs on the CPU (cotcli doctor)"]
    if placed.gpu_layers == 0:
        emptiest = max(devices, key=_room)
        [(_, one)] = plan(pair, demand, [emptiest], 1).devices
        return [
            f"everything runs on the CPU: one layer on {emptiest.name} would take {size_text(one.total + RESERVE)} "
            f"and {size_text(emptiest.free)} is free there"
        ]
    used = [device for device, _ in placed.devices]
    names = "+".join(device.name for device in used)
    note = f"{placed.gpu_layers} of {placed.all_layers} layers on {names}, vision on {placed.vision_device}"
    if placed.gpu_layers == placed.all_layers:
        note = f"all {placed.all_layers} layers on {names}, vision on {placed.vision_device}"
    else:
        need = sum(amounts.total + RESERVE for _, amounts in plan(pair, demand, used, ALL).devices)
        free = sum(device.free for device in used)
        note += f"; all would take {size_text(need)} and {size_text(free)} is free there"
    full = [
        f"{device.name} is not used, with {size_text(device.free)} free" for device in devices if device not in used
    ]
    return ["; ".join([note, *full])]


def _check_devices(pair: Pair, demand: Demand, devices: Sequence[DeviceInfo], placed: MemoryPlan) -> None:
    for device, amounts in placed.devices:
        if _fits(device, amounts.total):
            continue
        fit = largest_fit(pair, demand, devices)
        names = ",".join(each.name for each, _ in fit.devices)
        named = "" if len(fit.devices) == len(devices) else f"--device {names} "
        what_fits = f"What fits: {named}--gpu-layers {fit.gpu_layers}, or auto, which finds that out"
        raise ResourceError(
            f"{placed.gpu_layers} layers take {size_text(amounts.total)} on {device.name} "
            f"and {size_text(device.free)} is free there",
            what_fits if fit.gpu_layers else "Not even one layer fits with some reserve; for the CPU: --device cpu",
        )


def _check_host(
    pair: Pair, demand: Demand, choice: Choice, devices: Sequence[DeviceInfo], placed: MemoryPlan, host: HostMemory
) -> None:
    room = int(host.available * _HOST_SHARE)
    if placed.host.resident <= room:
        return
    where = " in this control group" if host.limit != "machine" else ""
    raise ResourceError(
        f"the model needs {size_text(placed.host.resident)} of memory and {size_text(host.available)} is free{where}",
        f"{_what_would_fit(pair, demand, choice, devices, room)}; to try all the same: --no-memory-check",
    )


def _what_would_fit(pair: Pair, demand: Demand, choice: Choice, devices: Sequence[DeviceInfo], room: int) -> str:
    """The options that would pass both checks, if there are any."""

    def passes(changed: Demand, choice: Choice = choice) -> bool:
        placed = _planned(pair, changed, choice, devices)
        return placed.host.resident <= room and all(_fits(device, use.total) for device, use in placed.devices)

    if demand.repack and passes(replace(demand, repack=False)):
        return "It would fit without --repack"
    fewer = demand.sequences // 2
    while fewer:
        if passes(replace(demand, sequences=fewer)):
            return f"It would fit with --parallel {fewer}"
        fewer //= 2
    alone = "--parallel 1 " if demand.sequences > 1 else ""
    shorter = demand.context_length // 2
    while shorter >= 256:
        if passes(replace(demand, sequences=1, context_length=shorter)):
            return f"It would fit with {alone}--ctx {shorter}"
        shorter //= 2
    if devices:
        placed = _planned(pair, demand, choice, devices)
        for layers in range(placed.gpu_layers + 1, placed.all_layers + 1):
            if passes(demand, replace(choice, gpu_layers=layers)):
                return f"It would fit with --gpu-layers {layers}"
    return "Take a smaller quantization (cotcli model ls), or free some memory"
