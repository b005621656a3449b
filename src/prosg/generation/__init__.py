"""Writing an answer: the choice of tokens, the loop over them, their text."""
