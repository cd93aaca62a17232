"""The mllama architecture on ggml: vision tower, projector and cross-attention layers around a plain llama."""
