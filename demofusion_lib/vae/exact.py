"""A program run layer by layer, each layer one sweep over tiles. Nothing is reckoned twice, and nothing is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from .attention import Softmax, attended, key_value
from .errors import NotFinite
from .layers import convolved, input_range, pieces, readied_step, ready, swept, tile_input
from .planes import Answer, Given, Plane, Store
from .program import Attend, Conv, Shape, Step, Sweep, shape_after
from .progress import Progress, Stretch
from .sharing import Rows, Sharing, divided, hand_over, rows_of
from .statistics import Affine, Gathered, Moments
from .tiles import Tile, cut


def sweep_tiles(step: Sweep, source: Shape, target: Shape, values: int) -> list[Tile]:
    """Of a target; neither a tile nor what it is made of has more than `values`, halos aside."""
    added = step.shortcut.inputs if step.shortcut is not None else 0
    per_cell = max(target.channels, source.channels * step.conv.stride**2, added)
    return cut(target.height, target.width, max(1, values // per_cell))


def query_tiles(step: Attend, shape: Shape, values: int) -> list[Tile]:
    """Queries, their weighted sums and their scores by a tile of keys share the values: a quarter, a quarter, a half."""
    return cut(shape.height, shape.width, max(1, values // (4 * shape.channels)))


def key_tiles(step: Attend, shape: Shape, values: int) -> list[Tile]:
    queries = query_tiles(step, shape, values)[0].cells * step.heads
    return cut(shape.height, shape.width, max(1, min(values // (2 * queries), values // (2 * shape.channels))))


VALUE_PRODUCTS = 300
"""What it takes to read, normalise, copy and write a value, in products of a convolution (measured on a CPU: 250 to 350);
and as much to write a score, find the greatest, exponentiate and add it up."""


def step_stretches(step: Step, source: Shape, target: Shape, values: int) -> list[Stretch]:
    """The tiles that a step is, and their work, in products."""
    if isinstance(step, Sweep):
        weights = step.conv.weight.numel() + (0 if step.shortcut is None else step.shortcut.weight.numel())
        moved = source.values * step.up**2 + target.values
        return [(len(sweep_tiles(step, source, target, values)), target.cells * weights + VALUE_PRODUCTS * moved)]
    keys, queries = len(key_tiles(step, source, values)), len(query_tiles(step, source, values))
    square = source.channels * source.channels * source.cells
    scores = (2 * source.channels + VALUE_PRODUCTS * step.heads) * source.cells**2
    return [(keys, 2 * square + VALUE_PRODUCTS * 2 * source.values), (queries * keys, 2 * square + scores)]


@dataclass
class Exact:
    """Runs steps on one picture. values: how many a tile may have. answer: what the last step writes to.

    moments: of the plane that the next step reads, where it normalises it.
    sharing: several processes do it, each its rows of tiles. held: of each plane, which rows each rank has.
    """

    store: Store
    progress: Progress
    values: int
    dtype: torch.dtype | None
    moments: Moments | None = None
    planes: dict[str, Plane | Given] = field(default_factory=dict)
    sharing: Sharing | None = None
    held: dict[str, list[Rows]] = field(default_factory=dict)

    def run(self, steps: tuple[Step, ...], after: Step | None, answer: Answer | None) -> None:
        """after: the step that follows the last one, if any; its norm's statistics are gathered."""
        for step, following in zip(steps, (*steps[1:], after)):
            gathered = Gathered() if following is not None and following.norm is not None else None
            if isinstance(step, Attend):
                self._attend(step, gathered)
            else:
                self._sweep(step, gathered, answer if following is None else None)
            self.moments = None if gathered is None else gathered.merged(step.name, self.sharing)

    def _affine(self, step: Step) -> Affine | None:
        if step.norm is None:
            return None
        assert self.moments is not None
        return Affine.of(step.norm, self.moments)

    def _sweep(self, step: Sweep, gathered: Gathered | None, answer: Answer | None) -> None:
        affine = self._affine(step)
        step = readied_step(step, self.dtype)
        source, x = self.planes[step.source], self.planes["x"]
        shape = shape_after(step, source.shape)
        tiles = sweep_tiles(step, source.shape, shape, self.values)
        own = None if isinstance(x, Given) or not in_place(step, x, shape, tiles) else x
        target = None if answer else self._target(own, shape, step.conv.weight.dtype)
        writable = answer or target
        assert writable is not None
        finite = torch.ones((), dtype=torch.bool, device=step.conv.weight.device)
        parts = self._parts(tiles)
        self._bring(step.source, self._reached(step.conv, step.up, source.shape.height, rows_of(tiles, parts)))
        if step.adds:
            self._bring("x", [[rows] for rows in rows_of(tiles, parts)])

        def work() -> None:
            for number, tile in enumerate(tiles):
                if self._mine(number, parts):
                    made = swept(step, source, x, tile, affine)
                    if gathered is not None:
                        gathered.add(made)
                    if answer is not None:
                        finite.logical_and_(made.isfinite().all())
                    writable.write(tile, made)
                    del made
                self.progress.tile()

        self._do(work)
        if not (bool(finite) if self.sharing is None else self.sharing.least(int(finite))):
            raise NotFinite(step.name)
        if self.sharing is not None:
            rows = rows_of(tiles, parts)
            if answer is not None:
                whole: list[list[Rows]] = [[(0, shape.height)]] * self.sharing.ranks
                hand_over(self.sharing, answer, whole, rows, step.conv.weight)
            self.held[step.target] = rows
        if target is not None:
            self._settle(step, target, own)

    def _parts(self, tiles: list[Tile]) -> list[tuple[int, int]]:
        return [(0, len(tiles))] if self.sharing is None else divided(tiles, self.sharing.speeds)

    def _mine(self, number: int, parts: list[tuple[int, int]]) -> bool:
        first, last = parts[0 if self.sharing is None else self.sharing.rank]
        return first <= number < last

    def _do(self, work: Callable[[], None]) -> None:
        if self.sharing is None:
            work()
        else:
            self.sharing.together(work, "tiles")

    def _bring(self, name: str, wanted: list[list[Rows]]) -> None:
        """What ranks lack of a plane for their next tiles."""
        plane = self.planes[name]
        if self.sharing is not None and not isinstance(plane, Given):
            like = torch.empty(0, dtype=plane.dtype, device=self.store.device)
            hand_over(self.sharing, plane, wanted, self.held[name], like)

    @staticmethod
    def _reached(conv: Conv, up: int, height: int, made: list[Rows]) -> list[list[Rows]]:
        """The rows of a plane of `height` that each rank makes its own of."""
        found = []
        for low, high in made:
            parts = pieces(*input_range(conv, low, high), height * up, conv.wraps) if high > low else []
            found.append([(part.low // up, -(-part.high // up)) for part in parts])
        return found

    def _target(self, own: Plane | None, shape: Shape, dtype: torch.dtype) -> Plane:
        return own.narrowed(shape.channels) if own else self.store.new(shape, dtype)

    def _settle(self, step: Sweep, target: Plane, own: Plane | None) -> None:
        """The planes after a sweep: what it wrote, under its name, and nothing that nobody reads any more."""
        target.flush()
        if step.target == "h":
            self.planes["h"] = target
            return
        self.store.drop(self.planes.pop("h", None))
        if own is not None:
            own.become(target.shape.channels)
            return
        self.store.drop(self.planes.pop("x"))
        self.planes["x"] = target

    def _attend(self, step: Attend, gathered: Gathered | None) -> None:
        """Keys and values of all cells are laid in a plane; queries are made by the tile, and their answers take the place of `x`."""
        affine = self._affine(step)
        both = ready(key_value(step), self.dtype)
        step = replace(step, q=ready(step.q, self.dtype), out=ready(step.out, self.dtype))
        x = self.planes["x"]
        assert not isinstance(x, Given)
        keys = key_tiles(step, x.shape, self.values)
        pairs = self.store.new(x.shape._replace(channels=both.outputs), both.weight.dtype)
        height = x.shape.height
        parts = self._parts(keys)
        self._bring("x", [[rows] for rows in rows_of(keys, parts)])

        def lay() -> None:
            for number, tile in enumerate(keys):
                if self._mine(number, parts):
                    pairs.write(tile, convolved(tile_input(x, tile, both, 1, affine), both))
                self.progress.tile()
            pairs.flush()

        self._do(lay)
        if self.sharing is not None:
            whole: list[list[Rows]] = [[(0, height)]] * self.sharing.ranks
            hand_over(self.sharing, pairs, whole, rows_of(keys, parts), both.weight)
        queries = query_tiles(step, x.shape, self.values)
        asking = self._parts(queries)
        self._bring("x", [[rows] for rows in rows_of(queries, asking)])

        def ask() -> None:
            for number, tile in enumerate(queries):
                mine = self._mine(number, asking)
                softmax = Softmax.begun(step, tile_input(x, tile, step.q, 1, affine)) if mine else None
                for key in keys:
                    if softmax is not None:
                        softmax.add(step, pairs.read(key))
                    self.progress.tile()
                if softmax is not None:
                    made = attended(step, softmax, x.read(tile))
                    softmax = None
                    if gathered is not None:
                        gathered.add(made)
                    x.write(tile, made)
                    del made

        self._do(ask)
        self.held["x"] = rows_of(queries, asking)
        x.flush()
        self.store.drop(pairs)


def in_place(step: Sweep, x: Plane, target: Shape, tiles: list[Tile]) -> bool:
    """Whether a step may write over the `x` that it adds: cell by cell, or, where channels grow fewer, band by band.

    Rows of fewer channels end before the rows that are still to be read begin; parts of rows do not.
    """
    if not step.adds or step.source == "x" or x.dtype != step.conv.weight.dtype:
        return False
    bands = all(tile.width == target.width for tile in tiles)
    return target.channels == x.shape.channels or (bands and target.channels < x.shape.channels)
