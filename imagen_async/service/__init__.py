"""One owner with a door: an OpenAI-compatible HTTP service over one client."""
