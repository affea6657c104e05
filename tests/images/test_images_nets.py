"""The nets against plain torch, batch norm's modes (O8), derivatives, the mapping over tasks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from images_data import glyphs
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional

from metarl import InnerLoop, Params, adaptation_curve, from_module, meta_loss, stream
from metarl.errors import InputError
from metarl.images import (
    DenseNet,
    PooledConvNet,
    StridedConvNet,
    adapts,
    at_step,
    cross_entropy,
    repeat_support,
    sample_episodes,
)
from metarl.images.convolution import conv3x3_stride2, output_grid
from metarl.nets import MLP
from metarl.rl.policies import GaussianMLP

SMALL = {"filters": 6}
NETS = {
    "strided": (lambda **o: StridedConvNet(5, **SMALL, **o), (1, 28, 28)),
    "pooled": (lambda **o: PooledConvNet(5, size=32, filters=4, **o), (3, 32, 32)),
    "dense": (lambda **o: DenseNet(5, widths=(16, 8, 8, 8), **o), (1, 28, 28)),
}
BuildNet = Callable[..., torch.nn.Module]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images(count: int, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    return torch.rand(
        count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def as_kernel(weight: Tensor, channels: int) -> Tensor:
    return weight.view(3, 3, channels, -1).permute(3, 2, 0, 1)


def plain(name: str, p: Params, x: Tensor, moments_of: Tensor | None = None) -> Tensor:
    """The nets written with torch's own layers; moments of ``moments_of`` when given."""
    both = x if moments_of is None else torch.cat([moments_of, x])
    rows = len(both) if moments_of is None else len(moments_of)
    if name == "dense":
        both = both.flatten(1)
    for i in range(4):
        if name == "dense":
            both = both @ p[f"weights.{i}"]
        elif name == "strided":
            kernel = as_kernel(p[f"convolutions.{i}"], both.shape[1])
            both = functional.conv2d(both, kernel, stride=2, padding=1)
        else:
            both = functional.conv2d(both, p[f"convolutions.{i}"], padding=1)
        dims = [d for d in range(both.ndim) if d != 1]
        mean = both[:rows].mean(dims, keepdim=True)
        variance = both[:rows].var(dims, correction=0, keepdim=True)
        shape = [1, -1] + [1] * (both.ndim - 2)
        both = (both - mean) / (variance + 1e-3).sqrt() + p[f"norms.{i}.beta"].view(shape)
        both = both.relu()
        if name == "pooled":
            both = functional.max_pool2d(both, 2)
    both = both.mean((2, 3)) if name == "strided" else both.flatten(1)
    out = both if moments_of is None else both[rows:]
    return functional.linear(out, p["head.weight"], p["head.bias"])


def build(name: str, **options: int) -> tuple[Params, Callable[..., Tensor], tuple[int, ...]]:
    net, shape = NETS[name]
    params, apply = from_module(net(generator=generator(), **options), dtype=torch.float64)
    for name_, p in params.items():
        if name_.endswith("beta"):  # zeros would hide it
            p.data = torch.randn(p.shape, dtype=p.dtype, generator=generator())
    return params, apply, shape


@pytest.mark.parametrize("name", NETS)
def test_logits_equal_torch_layers(name: str) -> None:
    params, apply, shape = build(name)
    x, reference = images(7, shape), images(5, shape, seed=2)
    assert torch.allclose(apply(params, x), plain(name, params, x), rtol=0, atol=1e-11)
    supported = apply(params, x, reference)
    assert torch.allclose(supported, plain(name, params, x, reference), rtol=0, atol=1e-11)
    # Mutants: the query's own moments, or those of both together.
    for mutant in (apply(params, x), apply(params, torch.cat([reference, x]))[5:]):
        assert not torch.allclose(supported, mutant, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_support_mode_keeps_query_items_apart(name: str, dtype: torch.dtype) -> None:
    params, apply, shape = build(name)
    params = {n: p.detach().to(dtype) for n, p in params.items()}
    support, query = images(5, shape).to(dtype), images(6, shape, seed=2).to(dtype)
    changed = torch.cat([query[:1], images(5, shape, seed=3).to(dtype)])
    one, other = (apply(params, q, support)[0] for q in (query, changed))
    assert torch.equal(one, other)
    one, other = (apply(params, q)[0] for q in (query, changed))
    assert not torch.equal(one, other)  # transductive: the other items matter


@pytest.mark.parametrize("name", NETS)
def test_per_step_rows(name: str) -> None:
    params, apply, shape = build(name, steps=3)
    for row in range(3):
        for norm in range(4):
            params[f"norms.{norm}.gamma"].data[row] = 1 + 0.5 * row
    x = images(6, shape)
    outputs = [apply(params, x, None, step) for step in range(5)]
    assert not torch.allclose(outputs[0], outputs[1])
    assert torch.equal(outputs[2], outputs[4])  # beyond the last: the last
    gradient = grad(lambda p: apply(p, x, None, 1).square().sum())(params)
    for norm in range(4):
        rows = gradient[f"norms.{norm}.gamma"].abs().sum(1)
        assert rows[1] > 0
        assert rows[0] == rows[2] == 0
    with pytest.raises(InputError, match=r"Episode\.step"):
        apply(params, x)


def test_initial_weights() -> None:
    net = StridedConvNet(20, generator=generator()).requires_grad_(False)
    assert [tuple(w.shape) for w in net.convolutions] == [(9, 64), *[(576, 64)] * 3]
    bound = (6 / (9 * 64 + 9 * 64)) ** 0.5
    assert 0.98 * bound < float(net.convolutions[1].abs().max()) <= bound
    assert abs(float(net.head.weight.std()) - 1) < 0.05
    assert tuple(PooledConvNet(5).head.weight.shape) == (5, 800)
    dense = DenseNet(5, generator=generator()).requires_grad_(False)
    assert [tuple(w.shape) for w in dense.weights] == [(784, 256), (256, 128), (128, 64), (64, 64)]
    assert float(dense.weights[0].abs().max()) <= 0.02
    again = StridedConvNet(20, generator=generator())
    assert all(map(torch.equal, net.parameters(), again.parameters()))


@pytest.mark.parametrize(
    "make",
    [
        lambda g: MLP((2, 3), generator=g),
        lambda g: GaussianMLP(2, 2, generator=g),
        lambda g: StridedConvNet(2, generator=g),
        lambda g: DenseNet(2, generator=g),
    ],
)
def test_a_generator_is_all_that_draws(make: Any) -> None:
    before = torch.get_rng_state()
    nets = [make(torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(before, torch.get_rng_state())
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(p, q)


def test_beta_and_gamma_stay() -> None:
    names = dict(StridedConvNet(5, steps=2).named_parameters())
    moving = [n for n in names if adapts(n)]
    assert moving == [n for n in names if "norm" not in n]
    assert len(names) - len(moving) == 8


@pytest.mark.parametrize("size", [28, 14, 7, 4])
def test_convolution_and_its_derivatives(size: int) -> None:
    grid = (2, size, size)
    x = images(2, (3, size, size)).movedim(1, -1).reshape(-1, 3).requires_grad_()
    weight = images(27, (4,), seed=2).requires_grad_()

    def reference(x: Tensor, weight: Tensor) -> Tensor:
        maps = x.view(2, size, size, 3).movedim(-1, 1)
        y = functional.conv2d(maps, as_kernel(weight, 3), stride=2, padding=1)
        return y.movedim(1, -1).reshape(-1, 4)

    y = conv3x3_stride2(x, weight, grid)
    assert torch.allclose(y, reference(x, weight), rtol=0, atol=1e-12)
    assert len(y) == torch.Size(output_grid(grid)).numel()
    if size < 14:
        small = images(1, (1, 4, 4)).reshape(-1, 1).requires_grad_()
        kernel = images(9, (2,), seed=3).requires_grad_()
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(lambda a, b: conv3x3_stride2(a, b, (1, 4, 4)).sin(), (small, kernel))


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0)])
def test_convolution_maps_over_tasks(dims: tuple[int | None, int | None]) -> None:
    x = images(3, (2 * 7 * 7, 4))
    weight = images(3, (36, 5), seed=2)
    args = [a if d == 0 else a[0] for a, d in zip((x, weight), dims, strict=True)]

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return conv3x3_stride2(x, weight, (2, 7, 7)).tanh().square().sum()

    for f in (loss, grad(loss), grad(loss, argnums=1), grad(lambda a, b: grad(loss)(a, b).sum())):
        mapped = vmap(f, in_dims=dims)(*args)
        for t in range(3):
            alone = f(*(a[t] if d == 0 else a for a, d in zip(args, dims, strict=True)))
            assert torch.allclose(mapped[t], alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("mode", ["transductive", "support"])
@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradient_equals_a_plain_loop(name: str, mode: str, first_order: bool) -> None:
    params, apply, (channels, size, _) = build(name)
    support, query = sample_episodes(
        glyphs(12, size=size), stream(0, "e", 0), tasks=3, ways=5, shots=1, queries=2
    )
    support, query = (
        e._replace(images=e.images.double().repeat(1, 1, channels, 1, 1)) for e in (support, query)
    )
    reference = support if mode == "support" else None
    loss = cross_entropy(apply)
    inner = InnerLoop(0.4, first_order=first_order, adapted=adapts)
    out = meta_loss(
        loss,
        loss,
        params,
        repeat_support(support, 2),
        at_step(query, 2, reference=reference),
        inner,
    )
    found = torch.autograd.grad(out.loss, list(params.values()))

    total, hits = torch.zeros((), dtype=torch.float64), 0.0
    for t in range(3):
        moved: Params = dict(params)
        for _ in range(2):
            value = functional.cross_entropy(
                plain(name, moved, support.images[t]), support.labels[t]
            )
            names = [n for n in moved if adapts(n)]
            steps = torch.autograd.grad(
                value, [moved[n] for n in names], create_graph=not first_order
            )
            moved |= {n: moved[n] - 0.4 * g for n, g in zip(names, steps, strict=True)}
        shown = support.images[t] if mode == "support" else None
        logits = plain(name, moved, query.images[t], shown)
        total = total + functional.cross_entropy(logits, query.labels[t]) / 3
        hits += float((logits.argmax(1) == query.labels[t]).double().mean()) / 3
    truth = torch.autograd.grad(total, list(params.values()))
    assert abs(float(out.loss.detach()) - float(total.detach())) < 1e-12
    assert abs(float(out.accuracy) - hits) < 1e-12
    for a, b in zip(found, truth, strict=True):
        assert float((a - b).norm()) <= 1e-9 * float(b.norm()) + 1e-13


def test_loss_returns_mean_accuracy_without_graph() -> None:
    params, apply, _ = build("strided")
    support, _ = sample_episodes(glyphs(12), stream(0, "e", 0), tasks=1, ways=5, shots=1, queries=1)
    one = support._replace(images=support.images[0].double(), labels=support.labels[0])
    out = cross_entropy(apply)(params, one)
    logits = apply(params, one.images)
    assert float(out.accuracy) == float((logits.argmax(1) == one.labels).double().mean())
    assert out.loss.requires_grad
    assert not out.accuracy.requires_grad


def test_a_net_of_ones_own_takes_images_alone() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3))
    params, apply = from_module(net)
    support, query = sample_episodes(
        glyphs(5), stream(0, "own"), tasks=2, ways=3, shots=1, queries=2
    )
    loss = cross_entropy(apply)
    found = meta_loss(loss, loss, params, [support] * 2, query, InnerLoop(0.1))
    assert bool(found.loss.isfinite())


def test_adaptation_learns_the_support() -> None:
    params, apply = from_module(StridedConvNet(5, generator=generator()))
    support, _ = sample_episodes(glyphs(40), stream(0, "e", 0), tasks=4, ways=5, shots=1, queries=1)
    loss = cross_entropy(apply)
    inner = InnerLoop(0.5, adapted=adapts)
    curve = adaptation_curve(loss, loss, params, repeat_support(support, 5), support, inner)
    assert float(curve.accuracy[0].mean()) < 0.6
    assert float(curve.accuracy[-1].mean()) > 0.9
