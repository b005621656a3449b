"""Serving: many prompts at once, one model, each with a memory of its own."""
