"""Training: recipes, one trainer for all phases, what is done to the state."""
