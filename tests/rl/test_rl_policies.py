import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from metarl.params import Params, from_module
from metarl.rl.distributions import Categorical, Gaussian, entropy, kl, log_prob, sample
from metarl.rl.policies import CategoricalMLP, GaussianMLP, in_head


def _gaussian(*shape: int, seed: int = 0) -> Gaussian:
    g = torch.Generator().manual_seed(seed)
    mean, log_std = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    return Gaussian(mean, 0.5 * log_std)


def _categorical(*shape: int, seed: int = 0) -> Categorical:
    g = torch.Generator().manual_seed(seed)
    return Categorical(torch.randn(*shape, generator=g, dtype=torch.float64))


def test_log_prob_is_summed_over_action_dimensions() -> None:
    p = _gaussian(5, 3)
    action = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reference = torch.distributions.Normal(p.mean, p.log_std.exp()).log_prob(action)
    assert torch.allclose(log_prob(p, action), reference.sum(-1), rtol=0, atol=1e-12)
    mutant = reference.mean(-1)
    assert not torch.allclose(log_prob(p, action), mutant, rtol=0, atol=0.1)


def test_categorical_log_prob_kl_entropy_against_torch() -> None:
    p, q = _categorical(5, 4), _categorical(5, 4, seed=1)
    reference_p = torch.distributions.Categorical(logits=p.logits)
    reference_q = torch.distributions.Categorical(logits=q.logits)
    action = torch.arange(5) % 4
    assert torch.allclose(log_prob(p, action), reference_p.log_prob(action), rtol=0, atol=1e-12)
    expected = torch.distributions.kl_divergence(reference_p, reference_q)
    assert torch.allclose(kl(p, q), expected, rtol=0, atol=1e-12)
    assert torch.allclose(entropy(p), reference_p.entropy(), rtol=0, atol=1e-12)


def test_gaussian_kl_entropy_against_torch() -> None:
    p, q = _gaussian(5, 3), _gaussian(5, 3, seed=1)
    reference_p = torch.distributions.Normal(p.mean, p.log_std.exp())
    reference_q = torch.distributions.Normal(q.mean, q.log_std.exp())
    expected = torch.distributions.kl_divergence(reference_p, reference_q).sum(-1)
    assert torch.allclose(kl(p, q), expected, rtol=0, atol=1e-12)
    assert torch.allclose(entropy(p), reference_p.entropy().sum(-1), rtol=0, atol=1e-12)
    shared = Gaussian(p.mean, p.log_std[0, :1])  # one deviation of all states and dimensions
    spread = Gaussian(p.mean, shared.log_std.expand(5, 3))
    assert torch.equal(entropy(shared), entropy(spread))


def test_kl_needs_two_of_a_kind() -> None:
    with pytest.raises(TypeError, match="Gaussian and Categorical"):
        kl(_gaussian(2, 2), _categorical(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_and_its_gradient_vanish_exactly_at_the_old_policy(dtype: torch.dtype) -> None:
    old = Gaussian(*(x.to(dtype) for x in _gaussian(50, 3)))
    new = Gaussian(*(x.clone().requires_grad_() for x in old))
    divergence = kl(old, new).mean()
    gradient = torch.autograd.grad(divergence, list(new))
    assert divergence.item() == 0.0
    assert all(bool((g == 0).all()) for g in gradient)


def test_sample_moments() -> None:
    g = torch.Generator().manual_seed(0)
    n = 200_000
    p = Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0]))
    x = sample(Gaussian(*(f.expand(n, 2) for f in p)), torch.randn(n, 2, generator=g))
    assert ((x.mean(0) - p.mean).abs() < 5 * p.log_std.exp() / math.sqrt(n)).all()
    assert ((x.std(0) / p.log_std.exp() - 1).abs() < 5 / math.sqrt(2 * n)).all()

    q = Categorical(torch.tensor([0.3, -1.0, 0.0, 1.2]))
    draws = sample(Categorical(q.logits.expand(n, 4)), torch.rand(n, generator=g))
    frequency = torch.bincount(draws, minlength=4) / n
    probability = torch.softmax(q.logits, -1)
    assert ((frequency - probability).abs() < 5 * (probability / n).sqrt()).all()


def test_categorical_sample_stays_in_range() -> None:
    p = Categorical(torch.tensor([0.0, 0.0, -1e9]))
    noise = torch.tensor([0.0, 0.5, 1 - 2**-24])
    assert sample(Categorical(p.logits.expand(3, 3)), noise).max() <= 2


def test_policies_start_as_documented() -> None:
    policy = GaussianMLP(4, 2, generator=torch.Generator().manual_seed(0))
    assert [tuple(layer.weight.shape) for layer in policy.mean.layers] == [
        (100, 4),
        (100, 100),
        (2, 100),
    ]
    assert all(bool((layer.bias == 0).all()) for layer in policy.mean.layers)
    bound = math.sqrt(6 / 200)
    assert 0.99 * bound < policy.mean.layers[1].weight.abs().max() <= bound
    assert bool((policy(torch.zeros(4)).log_std == 0).all())


@pytest.mark.parametrize("hidden", [(), (5,), (5, 5)])
def test_head_is_the_last_layer_and_the_deviation(hidden: tuple[int, ...]) -> None:
    adapted = in_head(len(hidden))
    for policy, net, more in (
        (GaussianMLP(3, 2, hidden=hidden), "mean", {"log_std"}),
        (CategoricalMLP(3, 2, hidden=hidden), "logits", set()),
    ):
        last = f"{net}.layers.{len(hidden)}"
        found = {name for name, _ in policy.named_parameters() if adapted(name)}
        assert found == {f"{last}.weight", f"{last}.bias"} | more


def test_std_has_a_floor() -> None:
    policy = GaussianMLP(1, 2, min_std=1e-6)
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-100.0, -1.0]))
    std = policy(torch.zeros(3, 1)).log_std.exp()
    assert torch.allclose(std[0], torch.tensor([1e-6, math.exp(-1)]))


@pytest.mark.parametrize("make", [GaussianMLP, CategoricalMLP])
def test_mapped_over_tasks_equals_one_task_at_a_time(make: type) -> None:
    policy = make(3, 2, hidden=(8,)).double()
    params = {
        name: torch.randn(4, *p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(i))
        for i, (name, p) in enumerate(policy.named_parameters())
    }
    observations = torch.randn(4, 5, 6, 3, dtype=torch.float64)
    mapped = vmap(lambda p, o: functional_call(policy, p, (o,)))(params, observations)
    by_itself = policy.map_tasks(params, observations.flatten(1, 2))
    for a, b in zip(mapped, by_itself, strict=True):
        assert torch.allclose(a.flatten(1, 2), b, rtol=0, atol=1e-12)
    for task in range(4):
        own = {name: p[task] for name, p in params.items()}
        alone = functional_call(policy, own, (observations[task],))
        assert type(mapped) is type(alone)
        for a, b in zip(mapped, alone, strict=True):
            assert a.shape == (4, 5, 6, 2)
            assert torch.allclose(a[task], b, rtol=0, atol=1e-12)


def _flat(params: Params) -> tuple[Tensor, list[tuple[str, torch.Size]]]:
    shapes = [(name, p.shape) for name, p in params.items()]
    return torch.cat([p.detach().reshape(-1) for p in params.values()]), shapes


def _unflat(flat: Tensor, shapes: list[tuple[str, torch.Size]]) -> Params:
    pieces = torch.split(flat, [shape.numel() for _, shape in shapes])
    return {name: x.reshape(shape) for (name, shape), x in zip(shapes, pieces, strict=True)}


def test_hessian_of_gaussian_kl_is_the_fisher_matrix() -> None:
    """(1/N) sum J' diag(1/sigma^2) J for the mean, 2 I for the log-std."""
    policy = GaussianMLP(3, 2, hidden=(5,), activation="tanh", init_std=0.7).double()
    params, apply = from_module(policy)
    flat, shapes = _flat(params)
    observations = torch.randn(7, 3, dtype=torch.float64)
    old = Gaussian(*(x.detach() for x in apply(params, observations)))

    def mean_kl(x: Tensor) -> Tensor:
        return kl(old, apply(_unflat(x, shapes), observations)).mean()

    jacobian = jacrev(lambda x: apply(_unflat(x, shapes), observations).mean)(flat)
    variance = (2 * old.log_std).exp()
    fisher = torch.einsum("nap,na,naq->pq", jacobian, 1 / variance, jacobian) / len(observations)
    start = 0
    for name, shape in shapes:
        if name == "log_std":
            block = slice(start, start + shape.numel())
            fisher[block, block] += 2 * torch.eye(shape.numel(), dtype=fisher.dtype)
        start += shape.numel()
    error = (jacrev(jacrev(mean_kl))(flat) - fisher).norm() / fisher.norm()
    assert error < 1e-10
    mutant = torch.einsum("nap,naq->pq", jacobian, jacobian) / len(observations)
    assert (mutant - fisher).norm() / fisher.norm() > 0.1


def test_hessian_of_categorical_kl_is_the_enumerated_fisher_matrix() -> None:
    policy = CategoricalMLP(3, 4, hidden=(5,), activation="tanh").double()
    params, apply = from_module(policy)
    flat, shapes = _flat(params)
    observations = torch.randn(7, 3, dtype=torch.float64)
    old = Categorical(apply(params, observations).logits.detach())

    def mean_kl(x: Tensor) -> Tensor:
        return kl(old, apply(_unflat(x, shapes), observations)).mean()

    def log_probs(x: Tensor) -> Tensor:
        return torch.log_softmax(apply(_unflat(x, shapes), observations).logits, -1)

    score = jacrev(log_probs)(flat)
    probability = log_probs(flat).exp()
    fisher = torch.einsum("na,nap,naq->pq", probability, score, score) / len(observations)
    assert (jacrev(jacrev(mean_kl))(flat) - fisher).norm() / fisher.norm() < 1e-10


def test_what_has_no_probability_is_not_drawn() -> None:
    logits = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0))
    logits[:, 4:] = -1e9
    drawn = sample(Categorical(logits), torch.full((20_000,), 1 - 2.0**-24))
    assert int(drawn.max()) == 3
