"""Multi-stage instruction data: the record, its checks, the kinds of instruction, and the way into tensors."""
