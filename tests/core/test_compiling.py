"""Recorded programs: products rewritten in them, what they are made anew for, two stages."""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from oracles import draw, rel
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import metarl
from metarl import InnerLoop, mean_over_tasks, meta_gradient
from metarl.chunks import each
from metarl.compiling import compile_chunks, compile_products, compiler_present
from metarl.compiling.products import PRODUCTS, use_onednn
from metarl.compiling.stages import split_stages
from metarl.params import Params

mm = PRODUCTS[torch.ops.aten.mm.default]
addmm = PRODUCTS[torch.ops.aten.addmm.default]
bmm = PRODUCTS[torch.ops.aten.bmm.default]
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


@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
def test_few_columns_become_few_rows(a_transposed: bool, b_transposed: bool) -> None:
    a, b, c = matrices((40, 8), (8, 5), (5,))
    a = a.t().contiguous().t() if a_transposed else a
    b = b.t().contiguous().t() if b_transposed else b
    torch.testing.assert_close(mm(a, b), a @ b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(addmm(c, a, b), c + a @ b, rtol=1e-12, atol=1e-14)
    graph = make_fx(torch.mm, decomposition_table=PRODUCTS)(a, b).graph
    (product,) = graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)
    assert product.args[0].meta["val"].shape == (5, 8)  # mutant: the product as it is has (40, 8)
    assert addmm(c, a, b, alpha=2) is NotImplemented


def test_large_products_are_left_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    c, a, b = (m.float() for m in matrices((5,), (4000, 100), (100, 5)))
    for present in (True, False):
        monkeypatch.setattr(
            "metarl.compiling.products.onednn_present", lambda present=present: present
        )
        with torch.no_grad():
            assert (mm(a, b) is NotImplemented) == present
            assert (addmm(c, a, b) is NotImplemented) == present
            assert mm(a[:400], b) is not NotImplemented
        assert mm(a, b) is not NotImplemented  # oneDNN's product has no derivative


def test_transposed_batches() -> None:
    a, b = matrices((3, 4, 4), (3, 4, 4))
    at, bt = a.transpose(1, 2), b.transpose(1, 2)
    truth = at @ bt
    torch.testing.assert_close(bmm(at, bt), truth, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(torch.bmm(b, a), truth)  # mutant: the result stays as it is
    for other in ((a, b), (at, b), (a, bt)):
        assert bmm(*other) is NotImplemented


@pytest.mark.parametrize(
    "operands",
    [
        lambda: matrices((64, 20), (20, 8)),
        lambda: [x.mT for x in matrices((5, 6, 7), (5, 8, 6))],
        lambda: [matrices((4000, 100))[0].t(), *matrices((4000, 32))],
    ],
    ids=["few columns", "transposed batches", "a weight's gradient"],
)
@torch.no_grad()
def test_what_follows_a_product_may_view_it(operands: Callable[[], list[Tensor]]) -> None:
    a, b = (x.float() for x in operands())

    def run(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b).view(-1)

    graph = make_fx(run, decomposition_table=PRODUCTS)(a, b)
    use_onednn(graph)
    torch.testing.assert_close(graph(a, b), run(a, b), rtol=1e-4, atol=1e-3)


def products(shared: Any, data: Any) -> Any:
    """Each kind of product that is rewritten, and a Python number."""
    (w,), (a, x, power) = shared, data
    twice = a.t() @ (w @ a).t()
    return twice + (x @ w) ** power + torch.outer(x, x @ a), x @ x


@needs_compiler
def test_a_program_is_made_for_shapes_numbers_and_grad_mode() -> None:
    run = each(products)
    compiled, _ = compile_chunks(run, threaded=False)
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


def squared_error(params: Params, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (torch.tanh(x @ params["w"]) @ params["v"] - y).square().mean()


@needs_compiler
@pytest.mark.parametrize("mapping", ["vmap+compile", "chunk:1+compile"])
def test_a_program_of_one_tensor_in_several_places_serves_several(mapping: str) -> None:
    w, v, *data = matrices((4, 6), (6, 1), *[(2, 5, 4), (2, 5, 1)] * 4)
    params = {"w": w.requires_grad_(), "v": v.requires_grad_()}
    batches = list(zip(data[::2], data[1::2], strict=True))
    own = {name: torch.tensor(0.1 * i, dtype=w.dtype) for i, name in enumerate(params, 1)}
    calls = [  # of pairs with the same shapes, first with tensors repeated
        ([batches[0]] * 3, batches[0], 0.1),
        (batches[:3], batches[3], 0.1),
        (batches[:3], batches[3], own),
    ]
    for supports, query, lr in calls:
        found, truth = (
            meta_gradient(
                squared_error, squared_error, params, supports, query, InnerLoop(lr), mapping=how
            )
            for how in (mapping, "vmap")
        )
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)


def moved(w: Tensor, slope: Tensor) -> Tensor:
    """``w`` after a step of Adam's fused kernel, which walks through both in memory's order."""
    p = w.detach().clone()
    p.grad = slope.detach()
    torch.optim.Adam([p], lr=1.0, eps=1.0, fused=True).step()
    return p


@needs_compiler
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_are_laid_out_as_the_parameters(transposed: bool) -> None:
    # Large enough for the products that come out transposed.
    (x,) = (m.float() for m in matrices((1, 800, 90)))
    w = (
        torch.linspace(0, 1, 1800).view(20, 90).t()
        if transposed
        else torch.linspace(0, 1, 1800).view(90, 20)
    ).requires_grad_()
    theta = {"w": w}

    def loss(p: Params, x: Tensor) -> Tensor:
        return (x @ p["w"]).square().mean()

    def both(p: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        return loss(p, x), loss(p, x)

    slopes = [
        meta_gradient(loss, loss, theta, (), x, InnerLoop(), mapping=mapping)[1]["w"]
        for mapping in ("chunk:1", "chunk:1+compile")
    ]
    objective = mean_over_tasks(both, x, mapping="chunk:1+compile")
    slopes.append(objective.gradient(theta)[2]["w"])
    truth = moved(w, torch.empty_like(w).copy_(slopes[0]))
    for slope in slopes:
        assert slope.stride() == w.stride()
        torch.testing.assert_close(moved(w, slope), truth)
    # Mutant: the gradient's own layout.
    other = slopes[0].contiguous() if transposed else slopes[0].t().contiguous().t()
    assert not torch.allclose(moved(w, other), truth)


class Data(NamedTuple):
    x: Tensor
    power: int


def curvature(theta: Params, data: Data) -> Callable[[Params], Params]:
    """``v -> theta' v`` times what only the data and theta decide."""
    known = torch.exp(theta["a"] @ data.x) ** data.power
    return lambda v: {"a": known * (v["a"] @ data.x.t()), "b": (theta["b"] * v["b"]).expand(2, 3)}


def test_stages_split_where_the_argument_enters() -> None:
    def whole(a: Tensor, x: Tensor, v: Tensor) -> list[Tensor]:
        known = (a @ x).exp()
        return [known.t() @ v, v + 1, known.sum()]

    inputs = [draw(4, 3), draw(3, 5), draw(4, 2)]
    graph = make_fx(whole)(*inputs)
    before, after = split_stages(graph, 2)
    values = before(*inputs[:2])
    for found, truth in zip(after(*values, inputs[2]), whole(*inputs), strict=True):
        assert torch.equal(found, truth)
    names = [
        [str(node.target) for node in part.graph.nodes if node.op == "call_function"]
        for part in (before, after)
    ]
    assert names[0].count("aten.exp.default") == 1
    assert "aten.exp.default" not in names[1]
    assert names[1].count("aten.t.default") == 1  # a view, made again
    # Mutant: the argument counted among what is known beforehand.
    assert "aten.add.Tensor" not in names[0]
    assert "aten.add.Tensor" in [str(n.target) for n in split_stages(graph, 3)[0].graph.nodes]


@pytest.mark.parametrize("threaded", [False, True])
@needs_compiler
@torch.no_grad()
def test_products_equal_eager_ones(threaded: bool) -> None:
    theta = {"a": draw(4, 3, seed=1), "b": draw(3, seed=2)}
    compiled, _ = compile_products(curvature, threaded=threaded)
    for power in (1, 2):  # Python numbers are compiled in
        data = Data(draw(3, 3, seed=3), power)
        product = compiled(theta, data)
        transposed = {"a": draw(3, 4, seed=4).t(), "b": draw(3, seed=5)}
        # theta itself must not be mistaken for the argument that it was recorded with.
        for v in (theta, transposed):
            truth = curvature(theta, data)(v)
            for name, found in product(v).items():
                assert rel(found, truth[name]) < 1e-12
                assert rel(curvature(v, data)(v)[name], truth[name]) > 1e-3 or v is theta  # mutant


def test_a_compiler_is_entered_by_one_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a known shape comes in another layout, or with a gradient wanted."""
    entered: list[threading.Thread] = []

    def compile_here(graph: Any, tensors: list[Any], threaded: bool) -> Any:
        entered.append(threading.current_thread())
        return graph

    monkeypatch.setattr(metarl.compiling.chunks, "_compile", compile_here)
    monkeypatch.setattr(metarl.mapping, "compiler_present", lambda: True)

    def loss(theta: Params, data: Tensor) -> tuple[Tensor, Tensor]:
        return (theta["w"] @ data).square().sum(), data.sum()

    w, data = matrices((5, 4), (6, 4, 3))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        objective = mean_over_tasks(loss, data, mapping="threads+compile")
        given = (w, w.clone().requires_grad_(), w.t().contiguous().t())
        losses = [float(objective.value({"w": x})[0]) for x in given]
    finally:
        torch.set_num_threads(threads)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-12)
    assert entered == [threading.main_thread()] * 3


@needs_compiler
def test_a_number_read_while_compiling_is_named() -> None:
    def loss(params: Params, x: Tensor) -> Tensor:
        return torch.distributions.Normal(params["w"], 1.0, validate_args=True).log_prob(x).mean()

    params, batch = {"w": torch.zeros(2, requires_grad=True)}, (torch.ones(3, 2),)

    def unpacked(params: Params, batch: Any) -> Tensor:
        return loss(params, batch[0])

    run = [unpacked, unpacked, params, [batch], batch, InnerLoop(0.1)]
    assert meta_gradient(*run)[0].isfinite()  # type: ignore[arg-type]
    with pytest.raises(metarl.InputError, match="give these validate_args=False"):
        meta_gradient(*run, mapping="vmap+compile")  # type: ignore[arg-type]
