"""Asking chat models behind an OpenAI-compatible endpoint: requests, budget, records, structured replies."""
