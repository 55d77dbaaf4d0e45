"""Speed and quality, run by hand."""
