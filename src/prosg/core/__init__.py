"""The values that every part passes on: updates, recurrent states, encoded prompts; padding and random draws."""
