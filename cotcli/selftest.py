"""The bundled model on one device, against what transformers computes with the same weights.

The stored values are in `data/selftest.npz`, made by `tests/parity/make_selftest_golden.py` from the bundled pair
itself: a picture of some tiles, the others being padding; its vision states; a prompt; the greedy list of what is
seen, and the logits along it. So only a device's arithmetic can make a difference, not the quantization of the weights.

The tolerances lie between that and mistakes. Kernels for Q8_0 weights round activations to 8 bits too: on the CPU the
logits are off by 5e-3, on its RPC device by up to 9e-3, and the states, which are F16's, by 2e-4. The mildest mistake
tried, letting tokens attend to padding, puts the logits off by 4e-2, and the states by 2e-1 when the tower does it. The
list must be the same to the last token; the picture was chosen so that each of them leads by far.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cotcli.engine import Engine, EngineOptions
from cotcli.errors import CotcliError, ModelError
from cotcli.files import checksum
from cotcli.image import prepare_image
from cotcli.native.devices import add_rpc_server
from cotcli.placement import ALL
from cotcli.registry import ResolvedModel, bundled

GOLDEN = Path(__file__).parent / "data" / "selftest.npz"
KEPT_STATES = slice(0, None, 3)  # rows of the states
KEPT_LOGITS = slice(0, None, 4)  # the first is before the answer's first token
STATES_TOLERANCE = 5e-3
LOGITS_TOLERANCE = 2e-2
_MODEL = "demo"
_VALUES = ("sha256", "picture", "states", "prompt", "answer", "logits")
_PATIENCE_S = 300.0
# What reading an archive of arrays raises at one, besides saying that it is none.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    RuntimeError,  # NotImplementedError too
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
_REINSTALL = "Install cotcli again: pip install --force-reinstall cotcli"


@dataclass(frozen=True)
class SelfTest:
    """How one device did.

    Attributes:
        device: its name.
        ok: whether all is within tolerance.
        states_error, logits_error: |ours - reference| / |reference|, in the Euclidean norm; None if it failed before.
        same_answer: whether the greedy answer was the same; None if it failed before.
        seconds: loading included.
        problem: what is wrong, in words; None if nothing is.
    """

    device: str
    ok: bool
    states_error: float | None
    logits_error: float | None
    same_answer: bool | None
    seconds: float
    problem: str | None


def run_apart(device: str, rpc: Sequence[str] = ()) -> SelfTest:
    """As ``run``, in a process of its own: a driver that fails badly takes its process with it.

    It imports from where this process does, and nothing from the current folder, which with ``-m`` would come first.
    """
    begin = time.perf_counter()
    places = [place for place in sys.path if place]
    places += [] if (package := str(Path(__file__).parents[1])) in places else [package]
    program = f"import sys; sys.path[:] = {places!r}; from cotcli.selftest import main; main(*sys.argv[1:])"
    command = [sys.executable, "-c", program, device, *rpc]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return _failed(device, begin, f"it took more than {_PATIENCE_S:.0f} seconds")
    try:
        return SelfTest(**json.loads(done.stdout))
    except (ValueError, TypeError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return _failed(device, begin, f"its process ended with {ended}" + (f": {said[-1]}" if said else ""))


def _failed(device: str, begin: float, problem: str) -> SelfTest:
    return SelfTest(device, False, None, None, None, time.perf_counter() - begin, problem)


def run(device: str) -> SelfTest:
    """Runs it with all layers on one device; "cpu" for none.

    Raises:
        ModelError: the bundled model or the stored values are missing, or do not belong together.
    """
    begin = time.perf_counter()
    model, golden = check_files()
    try:
        states_error, logits_error, answer = _compute(model, golden, device)
    except CotcliError as error:
        return _failed(device, begin, error.message)
    same = answer == golden["answer"].tolist()
    problem = None
    if not states_error <= STATES_TOLERANCE:
        problem = f"vision states are off by {states_error:.1e}, where {STATES_TOLERANCE:.0e} is allowed"
    elif not logits_error <= LOGITS_TOLERANCE:
        problem = f"logits are off by {logits_error:.1e}, where {LOGITS_TOLERANCE:.0e} is allowed"
    elif not same:
        problem = "the greedy answer is another one"
    seconds = time.perf_counter() - begin
    return SelfTest(device, problem is None, states_error, logits_error, same, seconds, problem)


def read_golden() -> dict[str, npt.NDArray[Any]]:
    """The stored values.

    Raises:
        ModelError: they are missing or broken.
    """
    try:
        with np.load(GOLDEN) as stored:
            return {name: stored[name] for name in _VALUES}
    except _DAMAGED as error:
        raise ModelError(f"{GOLDEN} cannot be read: {error or type(error).__name__}", _REINSTALL) from error


def check_files() -> tuple[ResolvedModel, dict[str, npt.NDArray[Any]]]:
    """The bundled model and the stored values.

    Raises:
        ModelError: they are missing or broken, or do not belong together.
    """
    model, golden = bundled(_MODEL), read_golden()
    for path, expected in zip((model.language, model.mmproj), golden["sha256"].tolist(), strict=True):
        if checksum(path) != expected:
            raise ModelError(f"{path} is not the file that the stored logits are for", _REINSTALL)
    return model, golden


def _compute(model: ResolvedModel, golden: dict[str, npt.NDArray[Any]], device: str) -> tuple[float, float, list[int]]:
    from PIL import Image

    prompt, answer = golden["prompt"].tolist(), golden["answer"].tolist()
    layers = 0 if device == "cpu" else ALL
    options = EngineOptions(gpu_layers=layers, device=device, threads=1, context_length=512, max_sequences=1)
    with Engine(model.language, model.mmproj, options) as engine:
        picture = prepare_image(Image.fromarray(golden["picture"]), engine.hparams.image)
        states = engine.encode(picture)
        image = engine.load_image(states, picture.num_tiles)
        sequence = engine.sequence(image)
        engine.prefill(sequence, prompt)
        rows = [engine.logits(sequence).copy()]
        rows += [row.copy() for row in engine.each_logits(sequence, answer[:-1])]
        engine.truncate(sequence, len(prompt) - 1)
        engine.prefill(sequence, prompt[-1:])
        written: list[int] = []
        while len(written) < len(answer):
            written.append(int(engine.logits(sequence).argmax()))
            engine.prefill(sequence, written[-1:])
        engine.drop(sequence)
        engine.release_image(image)
    logits = np.stack(rows)[KEPT_LOGITS]
    return _error(states[KEPT_STATES], golden["states"]), _error(logits, golden["logits"]), written


def _error(ours: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """At most 1e9, which also stands for what is not a number: JSON has neither that nor infinity."""
    error = float(np.linalg.norm(ours.astype(np.float64) - reference) / np.linalg.norm(reference))
    return min(error, 1e9) if np.isfinite(error) else 1e9


def main(device: str, *rpc: str) -> None:
    """The other end of ``run_apart``: writes the result to stdout as JSON."""
    try:
        for endpoint in rpc:
            add_rpc_server(endpoint)
        result = run(device)
    except CotcliError as error:
        result = _failed(device, time.perf_counter(), error.message)
    print(json.dumps(asdict(result)))
