"""Evaluation of questions and answers; so far a place kept for it."""
