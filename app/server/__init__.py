"""The product over HTTP: a page to read answers on, an OpenAI-compatible API, and its own."""
