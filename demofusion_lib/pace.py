"""How long what is left of a run will take: from what earlier runs took, as it is corrected by the run itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .work import DECODED_PX, ENCODED_PX, KINDS, Part, Speeds, default_speeds

OF_VAE = (DECODED_PX, ENCODED_PX)
TRUST = {kind: 0.3 if kind in OF_VAE else 0.03 for kind in KINDS}
"""The share of the longest stretch after which what the run shows itself counts as much as what was thought before."""
ENOUGH = 0.1
"""The share of a stretch that has to have been seen of a run that was stopped."""
TRUST_S = 0.5
"""Seconds of other kinds' work after which they count as much as what earlier runs took."""


class Pace:
    """Of one run, over all its pictures.

    known: what earlier runs took; None: then nothing is said before the run has shown something. native_px: pixels of the
    base image.
    """

    def __init__(self, known: Speeds | None, native_px: int):
        self.known = known
        self.weights = known or default_speeds(1.0, native_px)
        self.amounts = dict.fromkeys(KINDS, 0.0)
        self.times = dict.fromkeys(KINDS, 0.0)
        self.largest = dict.fromkeys(KINDS, 0.0)
        """The longest stretch of each kind, by amount: of those that are expected too."""
        self.seen = dict.fromkeys(KINDS, 0.0)

    def expect(self, parts: Iterable[Part]) -> None:
        """They are to come."""
        for part in parts:
            self.largest[part.kind] = max(self.largest[part.kind], part.amount)

    def show(self, part: Part, amount: float, seconds: float) -> None:
        """So much more of `part` took so many seconds.

        Rows are alike. A pixel of a small picture takes less time than one of a large, and counts for less.
        """
        self.expect([part])
        self.seen[part.kind] = max(self.seen[part.kind], part.amount)
        if amount > 0 and seconds > 0:
            counts = part.amount / self.largest[part.kind] if part.kind in OF_VAE else 1.0
            self.amounts[part.kind] += counts * amount
            self.times[part.kind] += counts * seconds

    def of(self, kind: str) -> float | None:
        """Seconds of one row or pixel; None where nobody can know."""
        before = self._before(kind)
        amount, seconds = self.amounts[kind], self.times[kind]
        if before is None or not amount:
            return before
        thought = TRUST[kind] * self.largest[kind]
        return (seconds + thought * before) / (amount + thought)

    def _before(self, kind: str) -> float | None:
        """What one was thought to take before any was seen: as slow or fast as the run's others are over what they were
        thought to take."""
        others = [other for other in KINDS if other != kind and self.amounts[other]]
        thought = sum(self.amounts[other] * self.weights.of(other) for other in others)
        if thought:
            doubt = 0.0 if self.known is None else TRUST_S
            return self.weights.of(kind) * (sum(self.times[other] for other in others) + doubt) / (thought + doubt)
        if self.known is not None:
            return self.known.of(kind)
        return self.times[kind] / self.amounts[kind] if self.amounts[kind] else None

    def seconds(self, amounts: Iterable[tuple[str, float]]) -> float | None:
        """Of so much of each kind; None where it is too early to say."""
        total = 0.0
        for kind, amount in amounts:
            each = self.of(kind)
            if each is None:
                return None
            total += each * amount
        return total

    def shown(self) -> Mapping[str, float]:
        """Seconds of a row or pixel of each kind of which this run has shown enough to tell the next."""
        told = [kind for kind in KINDS if self.amounts[kind] > ENOUGH * self.seen[kind]]
        return {kind: self.times[kind] / self.amounts[kind] for kind in told}
