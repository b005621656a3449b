"""The demonstration: small models trained and measured through public commands."""
