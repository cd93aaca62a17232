"""The bundled model's world: pictures of coloured shapes, questions about them, staged answers, and their checker.

NumPy and Pillow only. `cotcli demo` draws from it, training learns from it; nothing else in cotcli needs it.
"""
