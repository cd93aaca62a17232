"""What the libraries say of themselves."""

from __future__ import annotations

import re
from ctypes import c_char_p

from cotcli.native import devices
from cotcli.native.library import bind, llama_cpp

# const char * llama_version(void);
_llama_version = bind("llama_version", c_char_p)
# const char * ggml_version(void);
_ggml_version = bind("ggml_version", c_char_p)
# const char * ggml_commit(void);
_ggml_commit = bind("ggml_commit", c_char_p)


def versions() -> tuple[str, str, str]:
    """Of libllama and ggml, and ggml's commit."""
    return _llama_version().decode(), _ggml_version().decode(), _ggml_commit().decode()


def cpu_features() -> tuple[str, ...]:
    """The instruction sets and libraries that ggml's CPU code was built with and finds here, such as AVX2."""
    devices.start()
    info = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    cpu = info.partition("CPU :")[2]
    return tuple(re.findall(r"(\w+) = 1\b", cpu))
