"""The values that are passed around: updates, recurrent states, encoded prompts, random numbers."""
