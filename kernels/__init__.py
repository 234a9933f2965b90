"""Tensor operations that decide MICE's speed: packed selective scan, packed causal convolution, expert dispatch.

Tensors only: no case, no cohort, no file. Importing this package imports neither triton nor transformers, and it defines no
`__version__` (transformers probes a distribution of the same name). See kernels/README.md.
"""
