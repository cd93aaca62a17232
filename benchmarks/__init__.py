"""Speed and memory of cotcli at the true shapes, and what kills leave: run by hand as ``python -m benchmarks.<name>``.

Tests import what both need: ``hub_server``, ``small_checkpoints``, ``bundled_checkpoint``, ``llama3_tokenizer``, and of
``kills``, ``pull_kills``, ``pair_sizes`` and ``random_checkpoint`` some functions.
"""
