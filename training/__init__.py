"""The bundled model: generated scenes, staged answers, and the trainer.

Knows the little world of coloured shapes and how to train a tiny mllama on it. Knows nothing about GGUF or llama.cpp:
a finished checkpoint is an ordinary transformers folder, and `convert` takes it from there. Nothing in `cotcli` imports
this package. `dataset`, `held_out`, `check` and `evaluate --write` need none of torch, transformers and tokenizers; the
other commands do.
"""
