"""What a person touches: command line, settings and the pipeline. The only package that knows all others."""
