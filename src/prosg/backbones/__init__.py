"""Backbones: recurrent language models as functions of (tokens, state, update)."""
