"""ctypes declarations and owners of native handles; the only package that imports ctypes or llama_cpp.

library.py    the loaded libllama and libggml, one copy of each, and how a symbol is bound
abi.py        checks at import that they are the release whose layouts we rely on
ggml.py       ggml tensors, operators, backends and buffers; owners of contexts, buffers, threadpools
llama.py      owners of llama_model, llama_context, llama_batch and llama_sampler
interrupt.py  Ctrl-C during native calls
log.py        llama.cpp's log, kept from the terminal
quantize.py   float32 rows to any ggml type
"""

from cotcli.native import abi, log

log.capture()
abi.check()
