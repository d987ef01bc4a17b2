"""The command line: parse, call the pipeline, print, exit code. One file a group of commands; no logic."""
