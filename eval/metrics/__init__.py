"""Measures of answers, citations, choices, abstention and retrieval; a module each."""
