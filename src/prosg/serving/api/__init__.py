"""The HTTP interface of `prosg serve`: OpenAI's, stored prompts, keys and limits, metrics and a playground.

Edge            hosts, keys, bounded bodies, request ids, the log
-> schemas      what may be sent
-> requests     texts as token ids, and what of them memory holds
-> Running      the engine's events in the event loop
-> replies      OpenAI's objects and chunks
"""
