"""The adapter to AUTOMATIC1111's WebUI 1.10: everything that imports the host's `modules`."""
