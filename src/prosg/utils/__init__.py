"""Files, processes, tables: what any package needs and what knows nothing of language models."""
