"""Training: recipes, one trainer for all phases, perturbations of the recurrent state."""
