"""Reads a model's record out of its provider's own page: OpenAPI in Markdown, in YAML, in JSON. Sends nothing."""
