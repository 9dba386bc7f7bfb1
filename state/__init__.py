"""Stores: the data that survives a restart of a director. This package does not import the director."""
