"""PreparedImage -> cross-attention states: the vision tower and the projector.

Knows nothing of language. Follows transformers' ``MllamaVisionModel`` and ``MllamaForConditionalGeneration``'s
``multi_modal_projector``, in an exact form without mask tensors. There, a score is masked only if query *and* key are
padding; so padding queries attend to the real tokens and all others to everything. With the rows ordered

    real tiles' tokens | padding tiles' tokens | the rows that pad each tile to a multiple of 8

the real keys are a prefix and two unmasked attentions do. The first two parts are also the order of the result.

    steps.py      the order of the steps
    inputs.py     what is added to the patches, and the patches
    on_cpu.py     the tower in NumPy
    on_device.py  the tower as ggml graphs, for all other devices
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cotcli import __version__
from cotcli.image import PreparedImage
from cotcli.mllama.vision import on_cpu
from cotcli.mllama.vision.on_cpu import CpuTower
from cotcli.mllama.vision.on_device import DeviceTower
from cotcli.mllama.weights import WeightFile
from cotcli.native import ggml, ggml_backend


class VisionTower(Protocol):
    """The encoder of one mmproj file, on one device."""

    def encode(
        self, image: PreparedImage, on_progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """The projected vision states of an image.

        Args:
            image: tiles as ``cotcli.image`` prepares them.
            on_progress: called with the layers done and all layers, before the first and after each.

        Returns:
            float32 array of shape (max_num_tiles * num_patches, text hidden_size), tile after tile; the first
            ``image.num_tiles * num_patches`` rows are of real tiles. Rows of padding tiles are not zero: tokens before
            the image attend to them too.

        Raises:
            ResourceError: no memory, or fewer threads than asked for.
        """

    def close(self) -> None: ...


def vision_tower(file: WeightFile, backend: ggml_backend.Backend) -> VisionTower:
    """The tower of an open mmproj file, where ``backend`` computes."""
    return CpuTower(file, backend.n_threads) if backend.is_cpu else DeviceTower(file, backend)


def identity(file: WeightFile, device: ggml_backend.Device) -> str:
    """What the states of a picture depend on but for the picture, as a hex digest.

    The same weights in another type, another kind of device and another release of what computes give other states, if
    only in the last bits. The number of threads does not change them, up to 24.
    """
    digest = hashlib.sha256()
    kind = ggml_backend.device_name(device).rstrip("0123456789")  # CUDA0 and CUDA1 are alike if their model is
    model = ggml_backend.device_description(device)
    computing = on_cpu.libraries() if device == ggml_backend.cpu_device() else ggml.version().decode()
    for part in (__version__, computing, kind, model, file.hparams.vision):
        digest.update(f"{part}\n".encode())
    digest.update(file.identity(("v.", "mm.0.")).encode())
    return digest.hexdigest()
