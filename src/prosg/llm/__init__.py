"""Client of chat models behind OpenAI-compatible endpoints.

config.py        options of an endpoint, caps on the cost of its requests
completion.py    one chat completion over HTTP, its failures sorted by what can be done about them
message.py       the message in a reply's body, or what came in its place
reasoning.py     a model's reasoning and its answer, told apart
masking.py       the key, kept out of what is stored or shown
failures.py      what a failed attempt tells
waiting.py       what is said while a server lets one wait
client.py        retries, and what an attempt costs
budget.py        the caps, and the ledger of all requests
recorded.py      replies read from their records again
request_log.py   the recorded replies of several stages, under one budget
structured.py    requests that ask for JSON, and the JSON or refusal in replies
attempts.py      one question, asked with other seeds until a reply is usable
"""
