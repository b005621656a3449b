"""Operations: for each a plain oracle and fast implementations behind one signature.

A folder per operation: `naive.py` is the oracle, `chunk.py` plain PyTorch in chunks of time, `compiled.py` a C library,
`fla.py` flash-linear-attention's kernels for GPUs; `__init__.py` has the dictionary of them (`KERNELS`) and their
signature.
"""
