"""The webui's API, as far as it reads a request."""
