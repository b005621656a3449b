"""MuSI: multi-stage instruction data, requested from a chat model in five stages, or composed of single tasks.

config.py          options of a build
prompts.py         stage 1: descriptions of a category and examples -> instructions          figure 2, phase 1
filter.py          stage 2: form, language, length, near-duplicates, evaluation sets
answers.py         stage 3: one request per instruction                                      figure 2, phase 2
verify.py          stage 4: programmatic checks, and a judge's verdict on every step
export.py          stage 5: splits by cluster, a data card, jsonl and Parquet
build.py           the five in a row, resumable                                              prosg data build
estimate.py        what a build may cost                                                     prosg data build --dry-run
categories.py      kinds of instructions            draft.py      instructions as models write them
verdicts.py        requests to the judge            stages.py     places of stages in an answer
compose.py         single tasks -> multi-stage instructions
composed_parts.py  labelled answers and late constraints
composed_set.py    the composed data set's files                                             prosg data compose
tasks.py           single tasks of other projects' data
review.py          looking through rows                                                      prosg data review
stats.py           counting rows                                                             prosg data stats
text.py            words and languages              similar.py    near-duplicates by ROUGE-L
packaged.py        this package's data files
"""
