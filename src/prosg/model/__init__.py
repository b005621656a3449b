"""The whole model: a backbone and the module that turns its prompts into updates."""
