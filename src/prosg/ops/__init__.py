"""Kernels: for each operation an oracle and fast implementations behind one signature."""
