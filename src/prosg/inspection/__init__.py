"""What a model and its updates are like, in numbers and for the eye."""
