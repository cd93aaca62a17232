"""ctypes declarations and owners of native handles; the only package that imports ctypes or llama_cpp.

library.py      the loaded libllama and libggml, one copy of each, and how a symbol is bound
abi.py          checks at import that they are the release whose layouts we rely on
about.py        what they say of themselves
ggml.py         ggml tensors, operators, graphs
ggml_backend.py devices, what computes on them, buffers, threadpools
devices.py      what there is to compute on, and its memory; other machines over RPC
rpc_hello.py    whether an RPC server of this release listens at HOST:PORT
host_memory.py  what memory this process can still take
cpu.py          processors
gguf_header.py  names, types and sizes of a file's tensors
llama.py        owners of llama_model, llama_context, llama_batch and llama_sampler
interrupt.py    Ctrl-C during native calls
log.py          llama.cpp's log, kept from the terminal
quantize.py     float32 rows to any ggml type
"""

from cotcli.native import abi, log

log.capture()
abi.check()
