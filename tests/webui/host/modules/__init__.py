"""A double of the webui's `modules` package: its signatures and its contracts, as far as this extension meets them.

Plain classes over the real k-diffusion. Names that the webui does not have begin with an underscore, so that
`test_signatures.py` can hold every other one against a real checkout.
"""
