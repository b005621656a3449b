"""Text to token ids and back.

`base` says what a tokenizer is; `json_file` and `world` are the two kinds; `files` finds and loads one by its name;
`bpe` trains a small one.
"""
