"""Chunks to hits: encoder, store, dense index, late interaction. Imports no sibling package."""
