"""One picture drawn by several processes, each of which may have a GPU of its own: torch and its `distributed` alone."""

from .errors import RankError, RankLost
from .group import Ranks

__all__ = ["RankError", "RankLost", "Ranks"]
