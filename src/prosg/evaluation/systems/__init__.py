"""Systems under test: a model that runs here, or one behind an endpoint."""
