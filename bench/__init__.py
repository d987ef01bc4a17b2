"""Speed and quality, each measured beside its baseline in the same run: python -m bench."""
