"""What goes wrong between processes."""


class RankError(RuntimeError):
    """What another rank could not do; this one is well, and so is what joins them."""


class RankLost(RuntimeError):
    """A rank has died or hangs, or can't be reached: nothing can be shared any more."""
