"""Models, modules and encoded prompts in and out of files."""
