"""Models, modules, encoded prompts and initial states in and out of files.

`load` finds a model by its name; `backbone`, `adapter`, `encoded` and `initial_state` read and write one kind of file
each; `export` writes updates for other programs; `hub` fetches from and sends to the Hugging Face hub.

What is wrong with a file raises CheckpointError (a ValueError), FileNotFoundError or FileExistsError, with a message of
one line that names the file. Files are never executed, written whole or not at all, and replaced only on request.
"""
