"""Words left out of the prompts of windows that do not show them, for measuring (`bench.quality.words`); no part of the product."""
