"""Which layers go where, on devices of any size: the CPU, under other names and with other amounts of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.small_checkpoints import Recipe, write_checkpoint
from convert import convert
from cotcli.errors import ResourceError, UsageError
from cotcli.install import size_text
from cotcli.memory import Demand, Pair, plan, read_pair, split
from cotcli.mllama.weights import WeightFile
from cotcli.native import devices as native
from cotcli.native.devices import DeviceInfo, offload_devices
from cotcli.native.host_memory import HostMemory
from cotcli.placement import ALL, RESERVE, Choice, GpuLayers, chosen_devices, decide, largest_fit

RECIPE = Recipe(layers=14, cross_attention_layers=(3, 8))  # 12 self-attention layers
DEMAND = Demand(1024)
PLENTY = HostMemory(2**40, 2**40)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("placement")
    write_checkpoint(folder / "checkpoint", RECIPE)
    converted = convert(folder / "checkpoint", folder, "q8_0", name="placement")
    return read_pair(converted.language, WeightFile(converted.mmproj))


def device(name: str = "CUDA0", free: int = 2**40, **changes: object) -> DeviceInfo:
    gpu = replace(native.cpu(), name=name, kind=native.GPU, backend="CUDA", host_memory=False, from_file=False)
    return replace(gpu, total=max(free, 1), free=free, **changes)  # type: ignore[arg-type]


def need(pair: Pair, layers: int, where: DeviceInfo) -> int:
    [(_, amounts)] = plan(pair, DEMAND, [where], layers).devices
    return amounts.total


def test_all_layers_where_there_is_room(pair: Pair) -> None:
    placement = decide(pair, DEMAND, Choice(), [device()], PLENTY)
    assert (placement.gpu_layers, placement.plan.vision_device) == (13, "CUDA0")
    assert placement.notes == ("all 13 layers on CUDA0, vision on CUDA0",)
    assert [each.name for each in placement.devices] == ["CUDA0"]


@pytest.mark.parametrize("layers", [1, 2, 6, 12])
def test_auto_takes_the_most_that_fits(pair: Pair, layers: int) -> None:
    """One byte less than the next layer needs, with the reserve."""
    small = device(free=need(pair, layers + 1, device()) + RESERVE - 1)
    placement = decide(pair, DEMAND, Choice(), [small], PLENTY)
    assert placement.gpu_layers == layers
    [note] = placement.notes
    assert note.startswith(f"{layers} of 13 layers on CUDA0, vision on {placement.plan.vision_device}; all would take")
    assert need(pair, layers, small) + RESERVE <= small.free < need(pair, layers + 1, small) + RESERVE


def test_the_tower_goes_with_the_last_hooked_layer(pair: Pair) -> None:
    """Layer 8 comes after the 7th of 12 self-attention layers, and goes with what takes up that one's output."""
    for layers, place in ((5, native.cpu().name), (6, "CUDA0")):
        planned = plan(pair, DEMAND, [device()], layers)
        assert planned.vision_device == place
        [(_, amounts)] = planned.devices
        assert (amounts.vision > 0) == (amounts.images > 0) == (amounts.encoder > 0) == (place == "CUDA0")
        assert (planned.host.vision > 0) == (place != "CUDA0")


def test_nothing_fits(pair: Pair) -> None:
    full = device(free=RESERVE)
    placement = decide(pair, DEMAND, Choice(), [full], PLENTY)
    assert (placement.gpu_layers, placement.devices) == (0, ())
    assert placement.notes[0].startswith("everything runs on the CPU: one layer on CUDA0 would take")
    with pytest.raises(ResourceError, match=r"nothing would run on a GPU: everything runs on the CPU") as caught:
        decide(pair, DEMAND, Choice(require_gpu=True), [full], PLENTY)
    assert caught.value.exit_code == 5 and "cotcli doctor" in str(caught.value.hint)


def test_no_device(pair: Pair) -> None:
    assert decide(pair, DEMAND, Choice(), [], PLENTY).notes == ()  # of so small a model
    everything: tuple[GpuLayers, ...] = (ALL, 4, "all")
    for layers in everything:
        placement = decide(pair, DEMAND, Choice(layers), [], PLENTY)
        assert placement.gpu_layers == 0
        assert placement.notes == ("there is no GPU to put layers on: everything runs on the CPU (cotcli doctor)",)
    with pytest.raises(ResourceError, match=r"nothing would run on a GPU"):
        decide(pair, DEMAND, Choice(require_gpu=True), [], PLENTY)


def test_a_number_is_a_number_or_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotcli.placement.RESERVE", 1000)  # so small a model fits into the real one
    assert decide(pair, DEMAND, Choice(4), [device()], PLENTY).gpu_layers == 4
    assert decide(pair, DEMAND, Choice(99), [device()], PLENTY).gpu_layers == 13
    assert decide(pair, DEMAND, Choice(4), [device()], PLENTY).notes == ()
    # No reserve is kept from what was asked for by number.
    tight = device(free=need(pair, 4, device()))
    assert decide(pair, DEMAND, Choice(4), [tight], PLENTY).gpu_layers == 4
    with pytest.raises(ResourceError, match=r"13 layers take .* on CUDA0 and .* is free there") as caught:
        decide(pair, DEMAND, Choice(ALL), [device(free=need(pair, 5, device()) + 1000)], PLENTY)
    assert "--gpu-layers 5" in str(caught.value.hint)
    with pytest.raises(ResourceError) as caught:
        decide(pair, DEMAND, Choice(ALL), [device(free=1000)], PLENTY)
    assert "--device cpu" in str(caught.value.hint)
    assert decide(pair, DEMAND, Choice(ALL, check_memory=False), [tight], PLENTY).gpu_layers == 13


def test_a_device_that_does_not_tell_is_trusted(pair: Pair) -> None:
    silent = replace(device(), total=0, free=0)
    assert largest_fit(pair, DEMAND, [silent]).gpu_layers == 13


def test_layers_are_split_as_libllama_splits_them() -> None:
    """By free memory: three quarters to the first; the CPU keeps the first of all."""
    first, second = device("A", free=3000), device("B", free=1000)
    places = split([first, second], 8, 13)
    assert [place.name if place else "-" for place in places] == ["-"] * 5 + ["A"] * 6 + ["B"] * 2
    assert split([], 0, 3) == [None] * 3


@pytest.mark.parametrize("free", [1, RESERVE - 1, RESERVE + 1])
def test_a_full_device_holds_no_other_back(pair: Pair, free: int) -> None:
    """With the last of these and behind A it would get no layer anyway: so small is its share of all that is free."""
    first, second = device("A"), device("B", free=free)
    for devices, is_used in (([first, second], free > RESERVE), ([second, first], False)):
        placement = decide(pair, DEMAND, Choice(), devices, PLENTY)
        assert placement.gpu_layers == 13
        assert [each.name for each in placement.devices] == (["A", "B"] if is_used else ["A"])
        left_out = "" if is_used else f"; B is not used, with {size_text(free)} free"
        assert placement.notes == (f"all 13 layers on {'A+B' if is_used else 'A'}, vision on A{left_out}",)


def test_a_device_without_room_for_its_share_is_left_out(pair: Pair) -> None:
    """libllama shares out by what is free, so B would get every third layer, and has room for none."""
    first, second = device("A", free=3 * RESERVE), device("B", free=RESERVE + 1)
    placement = decide(pair, DEMAND, Choice(), [first, second], PLENTY)
    assert (placement.gpu_layers, [each.name for each in placement.devices]) == (13, ["A"])
    assert decide(pair, DEMAND, Choice(), [first, device("B", free=3 * RESERVE)], PLENTY).notes == (
        "all 13 layers on A+B, vision on A",
    )


def test_what_is_proposed_instead_names_the_device(pair: Pair) -> None:
    first, second = device("A", free=3 * RESERVE), device("B", free=RESERVE // 2)
    large = Demand(512 * 1024)
    with pytest.raises(ResourceError) as caught:
        decide(pair, large, Choice(ALL), [first, second], PLENTY)
    hint = str(caught.value.hint)
    assert hint.startswith("What fits: --device A --gpu-layers ")
    layers = int(hint.partition("--gpu-layers ")[2].partition(",")[0])
    assert decide(pair, large, Choice(layers), [first], PLENTY).gpu_layers == layers


def test_integrated_memory_is_the_hosts(pair: Pair) -> None:
    shared = replace(device(), host_memory=True)
    apart = plan(pair, DEMAND, [device()], 13)
    together = plan(pair, DEMAND, [shared], 13)
    assert together.host.total == apart.host.total + apart.devices[0][1].total


def test_pinned_memory_of_a_device_keeps_weights_mapped(pair: Pair) -> None:
    """libllama prefers it to the CPU's own layouts, and the file to it."""
    mapped = plan(pair, replace(DEMAND, repack=True), [replace(device(), host_buffers=True)], 1).host
    assert mapped.language + mapped.vision + mapped.cross_attention == mapped.mapped
    read = plan(pair, DEMAND, [replace(device(), loads_mapped=False)], 1).host
    assert read.mapped == read.vision + read.cross_attention


def host_with(available: int) -> HostMemory:
    return HostMemory(2**40, available)


def test_what_must_be_resident_has_to_fit(pair: Pair) -> None:
    def at_most(demand: Demand) -> HostMemory:
        return host_with(int(plan(pair, demand, [], 0).host.resident / 0.95) + 1)

    large = Demand(16 * 1024, sequences=4)
    with pytest.raises(ResourceError, match=r"needs .* of memory and .* is free") as caught:
        decide(pair, large, Choice(), [], at_most(Demand(16 * 1024, sequences=2)))
    assert str(caught.value.hint).startswith("It would fit with --parallel 2; ")
    with pytest.raises(ResourceError) as caught:
        decide(pair, large, Choice(), [], at_most(Demand(4 * 1024)))
    assert str(caught.value.hint).startswith("It would fit with --parallel 1 --ctx 4096; ")
    assert decide(pair, Demand(4096), Choice(), [], at_most(Demand(4 * 1024))).gpu_layers == 0
    with pytest.raises(ResourceError, match=r"in this control group") as caught:
        decide(pair, large, Choice(), [], HostMemory(2**30, 1000, "control group"))
    assert str(caught.value.hint).startswith("Take a smaller quantization")
    assert caught.value.exit_code == 5 and "--no-memory-check" in str(caught.value.hint)
    unchecked = decide(pair, large, Choice(check_memory=False), [], host_with(1000))
    assert unchecked.gpu_layers == 0
    assert len(unchecked.notes) == 1 and unchecked.notes[0].endswith("0.0 MB is free: the system may end it")


def test_copies_for_speed_are_given_up_first(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", Recipe(hidden_size=256, intermediate_size=512))
    converted = convert(tmp_path / "checkpoint", tmp_path, "q4_k_m", name="wide")
    pair = read_pair(converted.language, WeightFile(converted.mmproj))
    demand = Demand(1024, sequences=4, repack=True)
    needs = [plan(pair, replace(demand, repack=repack), [], 0).host.resident for repack in (False, True)]
    assert needs[0] < needs[1]
    with pytest.raises(ResourceError) as caught:
        decide(pair, demand, Choice(), [], host_with(int(needs[0] / 0.95) + 1))
    assert str(caught.value.hint).startswith("It would fit without --repack; ")


def test_the_context_that_is_proposed_is_the_largest_of_its_kind(pair: Pair) -> None:
    host = host_with(2**30)
    with pytest.raises(ResourceError) as caught:
        decide(pair, Demand(2**31 - 1), Choice(), [], host)
    proposed = int(str(caught.value.hint).removeprefix("It would fit with --ctx ").partition(";")[0])
    decide(pair, Demand(proposed), Choice(), [], host)
    with pytest.raises(ResourceError):
        decide(pair, Demand(2 * proposed), Choice(), [], host)


def test_more_layers_are_proposed_only_where_they_fit(pair: Pair) -> None:
    """The host has too little for what stays there with one layer on the device, and enough for it with six."""
    short = Demand(256)  # the least there is, so that no shorter context can be the answer

    def hint(demand: Demand, where: DeviceInfo, available: int) -> str:
        with pytest.raises(ResourceError) as caught:
            decide(pair, demand, Choice(1), [where], host_with(available))
        return str(caught.value.hint)

    needs = [plan(pair, short, [device()], layers) for layers in range(14)]
    available = int(needs[6].host.resident / 0.95) + 1
    answer = hint(short, device(), available)
    assert answer.startswith("It would fit with --gpu-layers ")
    layers = int(answer.split()[5].rstrip(";"))
    assert 1 < layers <= 6
    assert decide(pair, short, Choice(layers), [device()], host_with(available)).gpu_layers == layers
    with pytest.raises(ResourceError):
        decide(pair, short, Choice(layers - 1), [device()], host_with(available))
    # The device has room for the one layer alone; then, the host has too little whatever goes there.
    assert hint(short, device(free=needs[1].devices[0][1].total), available).startswith("Take a smaller quantization")
    assert hint(short, device(), 1000).startswith("Take a smaller quantization")


def test_mapped_weights_may_be_larger_than_memory(pair: Pair) -> None:
    """They are read again and again: slow, but right, so it is only said."""
    needed = plan(pair, DEMAND, [], 0).host
    placement = decide(pair, DEMAND, Choice(), [], host_with(needed.total - 1))
    assert len(placement.notes) == 1 and "read from disk again and again" in placement.notes[0]
    assert decide(pair, DEMAND, Choice(), [], host_with(needed.total)).notes == ()


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"gpu_layers": -2}, "gpu_layers must be auto, all"),
        ({"gpu_layers": "some"}, "not some"),
        ({"gpu_layers": 3, "device": "cpu"}, "--device cpu"),
        ({"device": "CPU", "require_gpu": True}, "--require-gpu and --device cpu exclude each other"),
        ({"gpu_layers": 0, "require_gpu": True}, "--require-gpu and --gpu-layers 0 exclude each other"),
    ],
)
def test_contradictions(choice: dict[str, GpuLayers], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Choice(**choice)  # type: ignore[arg-type]


def test_an_unknown_device() -> None:
    with pytest.raises(UsageError, match=r"there is no device CUDA7") as caught:
        chosen_devices("CUDA7")
    assert "There are: cpu" in str(caught.value.hint)


def test_what_libllama_takes_of_its_own_accord() -> None:
    gpu, twin = device("CUDA0", id="0000:01"), device("Vulkan0", id="0000:01", backend="Vulkan")
    far, inside = device("RPC0", backend="RPC"), device("Vulkan1", kind=native.IGPU, backend="Vulkan")
    blas = device("BLAS", kind=native.ACCELERATOR)

    def names(*devices: DeviceInfo) -> list[str]:
        return [each.name for each in offload_devices([native.cpu(), blas, *devices])]

    assert names() == []
    assert names(gpu, twin, far, inside) == ["RPC0", "CUDA0"]
    assert names(inside, far) == ["RPC0", "Vulkan1"]
