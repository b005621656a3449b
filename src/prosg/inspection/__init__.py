"""Numbers, tables and pictures about a model and its updates, for `prosg info` and `prosg inspect`."""
