"""The products of a mixture on a CPU: each core takes some neighbouring experts, whose rows stay in its cache.

One matrix product after the other, each shared by all cores, costs twice as much: cores wait for each other 200 times.

Shape suffixes: R rows sorted by expert, D model, F hidden width of one expert, P = 2F (gate over up).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Barrier

import torch
from torch import Tensor

from .fused import Bend, Learns, Operands, Slopes, swiglu

ROWS_IN_CACHE = 2048
NOT_WORTH_SHARING = 2**24


@dataclass(frozen=True)
class Portion:
    """Some neighbouring experts: where their rows stand, and where each one's stand among those."""

    rows: slice
    experts: tuple[tuple[int, slice], ...]


class OneByOne:
    """One expert after the other."""

    def forward(self, it: Operands) -> tuple[Tensor, Tensor]:
        """Gate and up products [R, P], and results [R, D]."""
        token_R = it.rows.token_R()
        product_RP = it.x_SD.new_empty(len(token_R), it.gate_up_EPD.shape[1])
        y_RD = it.x_SD.new_empty(len(token_R), it.x_SD.shape[1])

        def compute(portion: Portion) -> None:
            x_RD, product, y = (
                it.x_SD.index_select(0, token_R[portion.rows]),
                product_RP[portion.rows],
                y_RD[portion.rows],
            )
            for expert, own in portion.experts:
                torch.mm(x_RD[own], it.gate_up_EPD[expert].T, out=product[own])
            hidden_RF = swiglu(product)
            for expert, own in portion.experts:
                torch.mm(hidden_RF[own], it.down_EDF[expert].T, out=y[own])

        share(compute, it)
        return product_RP, y_RD

    def backward(self, it: Operands, product_RP: Tensor, dy_SD: Tensor, learns: Learns) -> Slopes:
        """All gradients, given that of the tokens' results."""
        token_R, weight_R1 = it.rows.token_R(), it.weight_R1()
        slopes = Slopes(
            it.x_SD.new_empty(len(token_R), it.x_SD.shape[1]),
            weight_R1.new_empty(len(token_R)),
            slopes_of(it.gate_up_EPD, it.rows.count_E) if learns.gate_up else None,
            slopes_of(it.down_EDF, it.rows.count_E) if learns.down else None,
        )

        def compute(portion: Portion) -> None:
            token = token_R[portion.rows]
            dy_RD = dy_SD.index_select(0, token)
            dhidden_RF = product_RP.new_empty(len(token), it.down_EDF.shape[2])
            for expert, own in portion.experts:
                torch.mm(dy_RD[own], it.down_EDF[expert], out=dhidden_RF[own])
            bend = Bend.of(product_RP[portion.rows], dhidden_RF, weight_R1[portion.rows])
            slopes.weight_R[portion.rows] = bend.weight_R
            dx_RD = slopes.row_RD[portion.rows]
            for expert, own in portion.experts:
                torch.mm(bend.product_RP[own], it.gate_up_EPD[expert], out=dx_RD[own])
                if slopes.down_EDF is not None:
                    torch.mm(dy_RD[own].T, bend.hidden_RF[own], out=slopes.down_EDF[expert])
            if slopes.gate_up_EPD is not None:
                x_RD = it.x_SD.index_select(0, token)
                for expert, own in portion.experts:
                    torch.mm(bend.product_RP[own].T, x_RD[own], out=slopes.gate_up_EPD[expert])

        share(compute, it)
        return slopes


def slopes_of(matrix_EXY: Tensor, count_E: Tensor) -> Tensor:
    """Room for gradients; those of experts without rows are 0."""
    slope_EXY = torch.empty_like(matrix_EXY)
    slope_EXY[count_E == 0] = 0
    return slope_EXY


def share(compute: Callable[[Portion], None], it: Operands) -> None:
    """Let every core compute some of the portions; what is computed does not depend on who does it."""
    counts, n_cores = it.rows.count_E.tolist(), torch.get_num_threads()
    n_rows, inference = sum(counts), torch.is_inference_mode_enabled()
    if n_cores == 1 or it.x_SD.is_cuda or n_rows * it.down_EDF[0].numel() < NOT_WORTH_SHARING:
        drain(compute, portions(counts, ROWS_IN_CACHE), inference)
        return
    # A list's iterator gives each portion to one thread only.
    work = iter(list(portions(counts, min(ROWS_IN_CACHE, -(-n_rows // n_cores)))))
    for done in [crew(n_cores).submit(drain, compute, work, inference) for _ in range(n_cores)]:
        done.result()


def drain(compute: Callable[[Portion], None], work: Iterable[Portion], inference: bool) -> None:
    """Compute what nobody else has taken; `inference` is the caller's mode, which a thread does not know."""
    with torch.inference_mode(inference), torch.no_grad():
        for portion in work:
            compute(portion)


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
    experts: list[tuple[int, slice]] = []
    start = size = 0
    for expert, count in enumerate(count_E):
        if size and size + count > most:
            yield Portion(slice(start, start + size), tuple(experts))
            experts, start, size = [], start + size, 0
        if count:
            experts.append((expert, slice(size, size + count)))
            size += count
    if size:
        yield Portion(slice(start, start + size), tuple(experts))
