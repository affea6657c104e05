"""Recorded programs: the products rewritten in them, and what they are made anew for."""

from typing import Any

import pytest
import torch
from torch import Tensor

from metarl.compiling import compile_chunks, compiler_present
from metarl.mapping import each
from metarl.products import SMALL_PRODUCTS

mm = SMALL_PRODUCTS[torch.ops.aten.mm.default]
bmm = SMALL_PRODUCTS[torch.ops.aten.bmm.default]
needs_compiler = pytest.mark.skipif(not compiler_present(), reason="no C++ compiler")


def matrices(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]


@pytest.mark.parametrize(("rows", "inner", "columns"), [(7, 1, 5), (7, 5, 1), (1, 7, 5), (1, 1, 1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_with_vectors(rows: int, inner: int, columns: int, transposed: bool) -> None:
    a, b = matrices((rows, inner), (inner, columns))
    if transposed:
        a, b = a.t().contiguous().t(), b.t().contiguous().t()
    torch.testing.assert_close(mm(a, b), a @ b, rtol=1e-12, atol=1e-14)


def test_large_products_stay() -> None:
    for shapes in (((9, 8), (8, 7)), ((20_000, 2), (2, 1)), ((1, 20_000), (20_000, 2))):
        assert mm(*matrices(*shapes)) is NotImplemented


def test_transposed_batches() -> None:
    a, b = matrices((3, 4, 4), (3, 4, 4))
    at, bt = a.transpose(1, 2), b.transpose(1, 2)
    truth = at @ bt
    torch.testing.assert_close(bmm(at, bt), truth, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(torch.bmm(b, a), truth)  # mutant: the result stays as it is
    for other in ((a, b), (at, b), (a, bt)):
        assert bmm(*other) is NotImplemented


def products(shared: Any, data: Any) -> Any:
    """Each kind of product that is rewritten, and a Python number."""
    (w,), (a, x, power) = shared, data
    twice = a.t() @ (w @ a).t()
    return twice + (x @ w) ** power + torch.outer(x, x @ a), x @ x


@needs_compiler
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # the compiler's own
def test_a_program_is_made_for_shapes_numbers_and_grad_mode() -> None:
    run = each(products)
    compiled, _ = compile_chunks(run)
    w, a, x = matrices((5, 5), (3, 5, 5), (3, 5))
    for data in ((a, x, 2), (a, x, 2.0), (a, x, 3), (a[:2], x[:2], 2), (-a, x, 2)):
        for got, truth in zip(compiled((w,), data), run((w,), data), strict=True):
            torch.testing.assert_close(got, truth, rtol=1e-12, atol=1e-12)
    slopes = []
    for f in (compiled, run):
        leaf = w.clone().requires_grad_()
        f((leaf,), (a, x, 2))[0].sum().backward()
        assert leaf.grad is not None
        slopes.append(leaf.grad)
        with torch.no_grad():
            assert not f((leaf,), (a, x, 2))[0].requires_grad
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)
