"""The mmproj file: image-token embedding, vision tower, projector and cross-attention layers, with all constants.

Decides metadata and tensors, writes nothing. The architecture name is our own: no other tool is meant to load it.
"""

from __future__ import annotations

from gguf import GGMLQuantizationType

from convert.checkpoint import Checkpoint
from convert.language import QUANTIZATION_VERSION
from convert.plan import FilePlan
from convert.quantize import Quantization, mmproj_type
from cotcli.mllama.hparams import ARCHITECTURE
from cotcli.mllama.tensor_names import mmproj_tensors


def plan_mmproj(
    checkpoint: Checkpoint, quantization: Quantization, vision_type: GGMLQuantizationType, name: str
) -> FilePlan:
    hparams = checkpoint.config.hparams
    plan = FilePlan(ARCHITECTURE)
    plan.metadata(
        {
            "general.type": "mmproj",
            "general.name": name,
            "general.quantization_version": QUANTIZATION_VERSION,
            "general.file_type": int(quantization.file_type),
            **hparams.to_gguf(),
        }
    )
    for spec in mmproj_tensors(hparams):
        kind = mmproj_type(spec, quantization, vision_type, hparams.text)
        plan.add(spec, kind, checkpoint.tensors[spec.hf_name])
    return plan
