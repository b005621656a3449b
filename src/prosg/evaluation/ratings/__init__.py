"""People rate answers, blind: fluency, accuracy and quality from 0 to 5, as in the paper's table 2.

items.py     which prompts and answers, in which order, under which letters
store.py     ratings as they are written, and read again
page.py      the page, as HTML; page.css and page.js beside it
server.py    serves it to one person on this machine
merge.py     means, agreement, differences between systems
alpha.py     Krippendorff's alpha
"""
