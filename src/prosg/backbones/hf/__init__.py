"""Models of transformers behind the backbone's signature."""
