"""The kinds of values that options take, and lists of networks."""
