"""MuSI: multi-stage instruction data, asked of a chat model in five stages, or composed of single tasks without one.

config.py      every option of a build; what is wrong is said before the first request
prompts.py     1. a description of a category and examples -> instructions           figure 2, phase 1
filter.py      2. form, language, length, stages, near-duplicates, evaluation sets
answers.py     3. one request per instruction                                        figure 2, phase 2
verify.py      4. programmatic checks, then a judge for every sub-instruction
export.py      5. splits by cluster, a data card, jsonl and Parquet
build.py       the five in a row, resumable
asking.py endpoint.py budget.py store.py   asking, recorded; caps and ledger; files that only grow
verdicts.py                        what a judge is asked, and what its replies say
text.py similar.py                 words and languages; ROUGE-L near-duplicates
tasks.py compose.py                single tasks of any data set -> multi-stage instructions
review.py stats.py                 looking through rows; counting them
"""
