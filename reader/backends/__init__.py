"""Readers and the models behind them, one a file."""
