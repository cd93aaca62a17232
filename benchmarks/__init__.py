"""Speed and memory of cotcli at the true shapes; scripts, run by hand as ``python -m benchmarks.<name>``."""
