"""The second host: diffusers models, k-diffusion's samplers, a command line. Never needed by the webui."""
