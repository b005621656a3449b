"""A chat model that judges answers, and how far people agree with it."""
