"""LLM-as-a-judge: a chat model grades the answers of evaluations, and its agreement with human labels.

config.py       options
protocol.py     the requests that are sent, and how replies are parsed
records.py      results derived from the recorded replies, and the files they are written to
runner.py       `prosg judge`: sends what is missing and writes the files
files.py        those files read again, and checked
summary.py      counts, shares and tables, read from those files
agreement.py    human labels and Cohen's kappa
"""
