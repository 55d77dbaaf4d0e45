"""The cheap kind of preview: a pixel to a cell."""


def cheap_approximation(sample):
    return sample[:, :3]
