"""`make bench`: what the presets cost, in units, time, memory and shapes, on a CPU with the toy."""
