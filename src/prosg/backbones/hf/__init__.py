"""Models of transformers as backbones."""
