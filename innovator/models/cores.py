"""The products of a mixture on a CPU: each core takes some neighbouring experts, whose rows stay in its cache.

One matrix product after the other, each shared by all cores, costs twice as much: cores wait for each other 200 times.
What lies between rows and results stands neuron by neuron, so that gates and ups are each in one stretch: element-wise
work over halves of rows takes up to four times as long. Only few rows, whose products would, stand as rows.

Shape suffixes: R rows sorted by expert, N of them in a portion, D model, F hidden width of one expert, P = 2F (gate
over up).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Barrier

import torch
from torch import Tensor

from .fused import Learns, Operands, Slopes

ROWS_IN_CACHE = 2048
NOT_WORTH_SHARING = 2**24
FEW_ROWS = 16  # of an expert


@dataclass(frozen=True)
class Portion:
    """Some neighbouring experts, how many rows each has, and where all of those stand."""

    rows: slice
    experts: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def n_rows(self) -> int:
        """Of all its experts."""
        return self.rows.stop - self.rows.start

    def upright(self, stretch: Tensor) -> Tensor:
        """As many numbers for each row as a matrix [X, N]."""
        if self.n_rows < FEW_ROWS * len(self.experts):
            return stretch.view(self.n_rows, -1).T
        return stretch.view(-1, self.n_rows)

    def matrices(self, matrix_EXY: Tensor) -> list[Tensor]:
        """Those of the portion's experts."""
        return [matrix_EXY[expert] for expert in self.experts]

    def rowwise(self, matrix_NX: Tensor) -> Sequence[Tensor]:
        """Each expert's rows."""
        return matrix_NX.split(self.counts)

    def columnwise(self, matrix_XN: Tensor) -> Sequence[Tensor]:
        """Each expert's rows, of a matrix in which rows stand upright."""
        return matrix_XN.split(self.counts, 1)


class Desk:
    """What one core computes in, kept from portion to portion: fresh memory costs as much as what is done in it."""

    def __init__(self) -> None:
        self.stretches: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, size: int) -> Tensor:
        """A stretch of so many numbers, filled with what was left there."""
        if name not in self.stretches or self.stretches[name].numel() < size:
            self.stretches[name] = like.new_empty(size)
        return self.stretches[name][:size]

    def gather(self, x_SD: Tensor, token_N: Tensor) -> Tensor:
        """The rows of some tokens, in the place of those gathered before."""
        stretch = self.take("rows", x_SD, len(token_N) * x_SD.shape[1])
        return torch.index_select(x_SD, 0, token_N, out=stretch.view(len(token_N), -1))


@dataclass(frozen=True)
class OneByOne:
    """One expert after the other, on so many cores."""

    n_cores: int

    def forward(self, it: Operands) -> tuple[Tensor, Tensor]:
        """Gate and up products, portion after portion, and results [R, D]."""
        token_R, (_, dim, hidden) = it.rows.token_R(), it.down_EDF.shape
        product_RP = it.x_SD.new_empty(len(token_R), 2 * hidden)
        y_RD = it.x_SD.new_empty(len(token_R), dim)

        def compute(portion: Portion, desk: Desk) -> None:
            x_ND = desk.gather(it.x_SD, token_R[portion.rows])
            product_PN = portion.upright(product_RP[portion.rows].view(-1))
            multiply(portion.matrices(it.gate_up_EPD), portion.columnwise(x_ND.T), portion.columnwise(product_PN))
            gate_FN, up_FN = product_PN.chunk(2)
            hidden_FN = portion.upright(desk.take("hidden", it.x_SD, hidden * portion.n_rows))
            torch.ops.aten.silu.out(gate_FN, out=hidden_FN).mul_(up_FN)
            multiply(
                portion.rowwise(hidden_FN.T), portion.matrices(it.down_EDF.mT), portion.rowwise(y_RD[portion.rows])
            )

        share(compute, it, self.n_cores)
        return product_RP, y_RD

    def backward(self, it: Operands, product_RP: Tensor, dy_SD: Tensor, learns: Learns) -> Slopes:
        """All gradients, given that of the tokens' results."""
        token_R, weight_R, (_, dim, hidden) = it.rows.token_R(), it.weight_R1()[:, 0], it.down_EDF.shape
        slopes = Slopes(
            it.x_SD.new_empty(len(token_R), dim),
            weight_R.new_empty(len(token_R)),
            slopes_of(it.gate_up_EPD, it.rows.count_E) if learns.gate_up else None,
            slopes_of(it.down_EDF, it.rows.count_E) if learns.down else None,
        )

        def compute(portion: Portion, desk: Desk) -> None:
            token_N, weight_N = token_R[portion.rows], weight_R[portion.rows]
            size = hidden * portion.n_rows
            gate_FN, up_FN = portion.upright(product_RP[portion.rows].view(-1)).chunk(2)
            three = desk.take("three", dy_SD, 3 * size).chunk(3)
            dhidden_FN, silu_FN, hidden_FN = (portion.upright(stretch) for stretch in three)
            dy_ND = desk.gather(dy_SD, token_N)
            multiply(portion.matrices(it.down_EDF.mT), portion.columnwise(dy_ND.T), portion.columnwise(dhidden_FN))
            torch.ops.aten.silu.out(gate_FN, out=silu_FN)
            torch.mul(silu_FN, up_FN, out=hidden_FN)
            slopes.weight_R[portion.rows] = torch.linalg.vecdot(dhidden_FN, hidden_FN, dim=0)
            if slopes.down_EDF is not None:
                hidden_FN.mul_(weight_N)
                multiply(portion.columnwise(dy_ND.T), portion.rowwise(hidden_FN.T), portion.matrices(slopes.down_EDF))
            dproduct_PN = portion.upright(desk.take("product", dy_SD, 2 * size))
            dgate_FN, dup_FN = dproduct_PN.chunk(2)
            torch.mul(dhidden_FN.mul_(weight_N), silu_FN, out=dup_FN)
            torch.ops.aten.silu_backward.grad_input(dhidden_FN.mul_(up_FN), gate_FN, grad_input=dgate_FN)
            dx_ND = slopes.row_RD[portion.rows]
            multiply(portion.rowwise(dproduct_PN.T), portion.matrices(it.gate_up_EPD), portion.rowwise(dx_ND))
            if slopes.gate_up_EPD is not None:
                x_ND = desk.gather(it.x_SD, token_N)
                multiply(portion.columnwise(dproduct_PN), portion.rowwise(x_ND), portion.matrices(slopes.gate_up_EPD))

        share(compute, it, self.n_cores)
        return slopes


def multiply(left: Sequence[Tensor], right: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """One product for each expert."""
    for a, b, c in zip(left, right, out, strict=True):
        torch.mm(a, b, out=c)


def slopes_of(matrix_EXY: Tensor, count_E: Tensor) -> Tensor:
    """Room for gradients; those of experts without rows are 0."""
    slope_EXY = torch.empty_like(matrix_EXY)
    for slope_XY, count in zip(slope_EXY, count_E.tolist(), strict=True):
        if not count:
            slope_XY.zero_()
    return slope_EXY


def share(compute: Callable[[Portion, Desk], None], it: Operands, n_cores: int) -> None:
    """Let every core compute some of the portions; what is computed does not depend on who does it."""
    counts, inference = it.rows.count_E.tolist(), torch.is_inference_mode_enabled()
    n_rows = sum(counts)
    alone = n_cores == 1 or it.x_SD.is_cuda or n_rows * it.down_EDF[0].numel() < NOT_WORTH_SHARING
    work = portions(counts, ROWS_IN_CACHE if alone else min(ROWS_IN_CACHE, -(-n_rows // n_cores)))
    if alone:
        drain(compute, work, inference)
        return
    largest_first = sorted(work, key=lambda it: -it.n_rows)  # so that all cores end together
    left = iter(largest_first)  # which gives each portion to one thread only
    for done in [crew(n_cores).submit(drain, compute, left, inference) for _ in range(n_cores)]:
        done.result()


def drain(compute: Callable[[Portion, Desk], None], work: Iterable[Portion], inference: bool) -> None:
    """Compute what nobody else has taken; `inference` is the caller's mode, which a thread does not know."""
    desk = Desk()
    with torch.inference_mode(inference), torch.no_grad():
        for portion in work:
            compute(portion, desk)


@cache
def crew(n_cores: int) -> ThreadPoolExecutor:
    """As many threads as cores, each of which computes by itself."""
    present = Barrier(n_cores + 1)

    def settle() -> None:
        torch.get_num_threads()  # a thread's first question sets it to the number that all have
        torch.set_num_threads(1)  # of the calling thread; but threads that begin later take it as well
        present.wait()

    pool = ThreadPoolExecutor(n_cores, thread_name_prefix="expert", initializer=settle)
    for _ in range(n_cores):
        pool.submit(int)
    present.wait()
    torch.set_num_threads(n_cores)
    return pool


def portions(count_E: list[int], most: int) -> Iterator[Portion]:
    """All experts that have rows, in order, in portions of at most so many rows, or of one expert."""
    experts: list[int] = []
    counts: list[int] = []
    start = size = 0
    for expert, count in enumerate(count_E):
        if size and size + count > most:
            yield Portion(slice(start, start + size), tuple(experts), tuple(counts))
            experts, counts, start, size = [], [], start + size, 0
        if count:
            experts.append(expert)
            counts.append(count)
            size += count
    if size:
        yield Portion(slice(start, start + size), tuple(experts), tuple(counts))
