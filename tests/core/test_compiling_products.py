"""Matrix products of compiled programs: the same numbers by another library."""

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from metarl.compiling import compile_chunks, compiler_present, onednn_present, products

pytestmark = pytest.mark.skipif(not onednn_present(), reason="no oneDNN with AVX-512")

ROWS, WIDTH = 512, 64


def replaced(graph: GraphModule) -> int:
    return sum(node.target is torch.ops.metarl.linear.default for node in graph.graph.nodes)


def matrices(columns: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs to multiply, laid out as in a layer and in its slopes."""
    generator = torch.Generator().manual_seed(0)
    x, w, d = (
        torch.randn(shape, generator=generator)
        for shape in ((ROWS, WIDTH), (columns, WIDTH), (ROWS, columns))
    )
    return {"output": (x, w.t()), "input": (d, w), "weight": (d.t(), x), "transposed": (x.t(), d)}


@pytest.mark.parametrize("layout", ["output", "input", "weight", "transposed"])
@pytest.mark.parametrize("columns", [32, 100])
def test_products_are_those_of_torch(layout: str, columns: int) -> None:
    a, b = matrices(columns)[layout]
    graph = make_fx(torch.mm)(a, b)
    products.use_onednn(graph)
    assert replaced(graph) == 1
    exact = (a.double() @ b.double()).float()
    torch.testing.assert_close(graph(a, b), exact, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(graph(a, b), exact.roll(1, 0), rtol=1e-5, atol=1e-4)  # mutant


def test_the_shape_of_a_product_is_known_beforehand() -> None:
    inputs = (torch.ones(ROWS, WIDTH), torch.ones(48, WIDTH), torch.ones(48))
    for given in (inputs, (*inputs[:2], None)):
        checks = torch.library.opcheck(
            torch.ops.metarl.linear.default, given, test_utils="test_faketensor"
        )
        assert set(checks.values()) == {"SUCCESS"}


def test_a_copy_in_rows_is_shared() -> None:
    x, _ = matrices(100)["output"]

    def slopes(x: Tensor, d: Tensor, e: Tensor) -> list[Tensor]:
        return [x.t() @ d, x.t() @ e, (x @ x.t()) @ d]

    inputs = (
        x,
        *(torch.randn(ROWS, 100, generator=torch.Generator().manual_seed(i)) for i in (1, 2)),
    )
    graph = make_fx(slopes)(*inputs)
    products.use_onednn(graph)
    targets = [node.target for node in graph.graph.nodes]
    assert targets.count(torch.ops.aten.clone.default) == 1
    for found, truth in zip(graph(*inputs), slopes(*inputs), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-2)
        assert not torch.allclose(found, truth.roll(1, 0), rtol=1e-4, atol=1e-2)  # mutant


def test_a_bias_is_added() -> None:
    x, w = matrices(48)["output"]
    bias = torch.arange(48.0)
    graph = make_fx(torch.addmm)(bias, x, w)
    products.use_onednn(graph)
    assert replaced(graph) == 1
    torch.testing.assert_close(graph(bias, x, w), torch.addmm(bias, x, w), rtol=1e-5, atol=1e-4)


def test_other_products_stay() -> None:
    a, b = matrices(48)["output"]
    few = make_fx(torch.mm)(a[:8], b)
    double = make_fx(torch.mm)(a.double(), b.double())
    full = make_fx(torch.addmm)(torch.ones(ROWS, 48), a, b)
    scaled = make_fx(lambda c, a, b: torch.addmm(c, a, b, beta=2.0))(torch.ones(48), a, b)
    for graph in (few, double, full, scaled):
        products.use_onednn(graph)
        assert replaced(graph) == 0


@pytest.mark.skipif(not compiler_present(), reason="no C++ compiler")
def test_compiled_programs_use_them_and_still_have_gradients() -> None:
    x, w = matrices(48)["output"]

    def run(shared: Tensor, data: Tensor) -> Tensor:
        return (data @ shared).relu()

    compiled = compile_chunks(run, threaded=False)[0]
    with torch.no_grad():
        torch.testing.assert_close(compiled(w, x), run(w, x), rtol=1e-5, atol=1e-4)
    leaf = w.detach().clone().requires_grad_()
    compiled(leaf, x).sum().backward()
    truth = w.detach().clone().requires_grad_()
    run(truth, x).sum().backward()
    assert leaf.grad is not None
    assert truth.grad is not None
    torch.testing.assert_close(leaf.grad, truth.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(not compiler_present(), reason="no C++ compiler")
@pytest.mark.parametrize("threaded", [False, True])
def test_compiled_programs_call_the_library_themselves(threaded: bool) -> None:
    pairs = matrices(48)
    bias = torch.arange(48.0)

    def run(bias: Tensor, pairs: dict[str, tuple[Tensor, Tensor]]) -> list[Tensor]:
        # Operands that the program computes, which the compiler may lay out as it likes.
        halves = [((a + a) / 2, (b + b) / 2) for a, b in pairs.values()]
        given = [a @ b for a, b in pairs.values()]
        return [*given, *(a @ b for a, b in halves), torch.addmm(bias, *pairs["output"])]

    compiled = compile_chunks(run, threaded=threaded)[0]
    graph = make_fx(torch.mm)(*pairs["output"])
    products.use_onednn(graph)
    with torch.no_grad():
        truth = run(bias.double(), {k: (a.double(), b.double()) for k, (a, b) in pairs.items()})
        for found, exact in zip(compiled(bias, pairs), truth, strict=True):
            torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
        seen = []
        for program in (lambda: compiled(bias, pairs), lambda: graph(*pairs["output"])):
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watch:
                program()
            seen.append("metarl::linear" in {event.name for event in watch.events()})
    assert seen == [False, True]  # mutant: through the interpreter, as a record runs
