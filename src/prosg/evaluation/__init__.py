"""Evaluation: what a model still knows of its prompt, how far into the answer, and whether the update is why."""
