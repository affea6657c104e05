"""Fisher products of a divergence after adaptation, by its Gauss-Newton form."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .chunks import ChunkFunction, each, map_items, run_chunks
from .compiling import compile_products
from .kept import kept_if
from .mapping import Mapping, autocast_active
from .params import Params
from .reduction import Reducer, mean_of_chunks

Product = Callable[[Params], Params]


class GaussNewton(NamedTuple):
    """A Fisher matrix ``F = J' M J`` of one task, cheaper than the Hessian of its KL.

    ``J = d outputs / d theta``, and ``M`` is the Hessian of ``there -> divergence(here, there)`` at
    ``there = here``, the outputs at theta. Equal to the Hessian of the KL there, since the KL's
    slope is zero; but the adaptation's second derivatives drop out, and what does not depend on
    the vector is computed once for all products at one theta.

    Attributes:
        outputs: ``(theta, one task's data) -> tensors``, such as a policy's after adaptation.
        divergence: ``(here, there, one task's data) -> scalar``, smallest where they are equal.
    """

    outputs: Callable[[Params, Any], Any]
    divergence: Callable[[Any, Any, Any], Tensor]


def gauss_newton(
    fisher: GaussNewton, data: Any, mapping: Mapping, reduce: Reducer | None
) -> Callable[[Params, Params], Params]:
    """``(theta, v) -> mean over tasks of J' M J v``, linearised once for each theta.

    Theta changed in place counts as another, unless it is changed behind torch's back (``.data``).
    """
    products = mapping
    if mapping == Mapping("chunk", 1, False) and not autocast_active():
        # A product only replays recorded operations, which leaves the interpreter to others.
        products = mapping._replace(kind="threads")
    latest: _Linearised | None = None

    def product(theta: Params, v: Params) -> Params:
        nonlocal latest
        if latest is None or not latest.at(theta):
            run = kept_if(mapping.compile, _linearisation, fisher)
            latest = None  # its memory serves the next
            with torch.no_grad():
                chunks = run_chunks(run, theta, data, mapping, compiler=compile_products)
            latest = _Linearised([(p, p._version) for p in theta.values()], chunks)
        v = {name: v[name] for name in theta}
        with torch.no_grad():
            fv: Params = map_items(
                lambda chunk: chunk(v),
                latest.chunks,
                products,
                gather=lambda sums: mean_of_chunks(sums, data, reduce),
            )
        return fv

    return product


class _Linearised(NamedTuple):
    """Products at one theta."""

    # The tensors themselves, not their ids: a tensor that is no more gives its id to the next.
    theta: list[tuple[Tensor, int]]  # and their versions
    chunks: list[Product]

    def at(self, theta: Params) -> bool:
        """Whether these are the same tensors, unchanged."""
        return len(theta) == len(self.theta) and all(
            p is q and p._version == version
            for p, (q, version) in zip(theta.values(), self.theta, strict=True)
        )


def _linearisation(fisher: GaussNewton) -> ChunkFunction:
    """Chunk function ``(theta, data) -> (v -> J' M J v)``, the product summed over its tasks."""
    return functools.partial(_linearise, fisher)


def _linearise(fisher: GaussNewton, theta: Params, data: Any) -> Product:
    outputs = each(lambda theta, data: fisher.outputs(theta, data))
    theta = {name: p.detach() for name, p in theta.items()}
    here, pull_back = torch.func.vjp(lambda theta: outputs(theta, data), theta)[:2]
    here = tree_map(torch.detach, here)

    def divergence(there: Any) -> Tensor:
        total: Tensor = each(lambda _, x: fisher.divergence(*x))(None, (here, there, data)).sum()
        return total

    # Pull-backs are linear, and pulling back through one pushes forward: unlike forward-mode
    # differentiation, this exists for every operation that has a second derivative.
    zeros = tree_map(torch.zeros_like, here)
    push_forward = torch.func.vjp(lambda u: pull_back(u)[0], zeros)[1]
    metric = torch.func.vjp(torch.func.grad(divergence), here)[1]

    def product(v: Params) -> Params:
        (tangent,) = push_forward(v)
        (slope,) = metric(tangent)
        fv: Params = pull_back(slope)[0]
        return fv

    return product
