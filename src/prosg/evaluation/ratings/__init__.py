"""Blind human ratings of answers: fluency, accuracy and quality from 0 to 5, as in the paper's table 2.

items.py     prompts and answers to rate, in each annotator's own order and under letters
store.py     ratings on disk
page.py      the HTML page, with page.css and page.js beside it
server.py    serves the page to one annotator on this machine
merge.py     means, agreement and differences between systems over all annotators
alpha.py     Krippendorff's alpha
"""
