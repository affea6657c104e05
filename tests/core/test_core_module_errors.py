"""What cannot be mapped or adapted is named, with its path and the way out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from modules import X, Y, built
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from metarl import InnerLoop, InputError, adapt, from_module, meta_loss
from metarl.elementary import Elementary
from metarl.supervised.losses import mean_squared_error
from metarl.supervised.sinusoid import Regression


class Counter(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Branch(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if bool(y.sum() > 0) else -y


def old_weight_norm() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_buffer("moving", layer.weight.mean())
    return layer


class Moving(nn.Linear):
    """Running statistics by hand."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return super().forward(x - self.mean)


NAMED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "running statistics": (lambda: nn.BatchNorm1d(3), "track_running_stats=False"),
    "power iteration": (lambda: spectral_norm(nn.Linear(4, 4)), r"call \.eval\(\)"),
    "embedding bag": (lambda: nn.EmbeddingBag(7, 4), "use nn.Embedding"),
    "sparse": (lambda: nn.Embedding(7, 4, sparse=True), "sparse=False"),
    "renormalised": (lambda: nn.Embedding(7, 4, max_norm=1.0), "max_norm=None"),
    "no shapes": (lambda: nn.LazyLinear(3), "call the module once"),
    "graph": (old_weight_norm, "keeps moving.*detach it"),
    "nothing to train": (nn.Tanh, "no parameter that requires gradients"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_cannot_be_adapted_is_named(name: str) -> None:
    build, way_out = NAMED[name]
    with pytest.raises(InputError, match=way_out):
        from_module(nn.ModuleDict({"part": build()}))


@pytest.mark.parametrize("kind", [Counter, Moving])
@pytest.mark.parametrize("mapping", ["vmap", "chunk:1", None])
def test_a_module_that_keeps_a_state_is_no_function(kind: Any, mapping: str | None) -> None:
    params, apply = from_module(built(lambda: nn.Sequential(kind())))
    loss, data = mean_squared_error(apply), Regression(X, Y)

    def call() -> Any:
        if mapping is None:
            return apply(params, X[0])
        return meta_loss(loss, loss, params, [data], data, InnerLoop(0.01), mapping=mapping)

    for _ in range(2):  # and leaves nothing behind that belongs to a call
        with pytest.raises(InputError, match="no function of parameters and inputs: return the"):
            call()


def test_a_spectral_norm_that_stands_still() -> None:
    net = spectral_norm(nn.Linear(4, 4)).to(X.dtype).eval()
    params, apply = from_module(net)
    assert torch.allclose(apply(params, X[0]), net(X[0]))


@pytest.mark.parametrize("mapping", ["vmap", "chunk:1", "vmap+compile"])
@pytest.mark.parametrize("first_order", [False, True])
def test_a_loss_of_another_module_is_refused(mapping: str, first_order: bool) -> None:
    """As of learners that hold their parameters."""
    net = nn.Linear(4, 1).to(X.dtype)
    params, apply = from_module(net)
    right, wrong = mean_squared_error(apply), lambda _, data: (net(data.x) - data.y).square().mean()
    data, inner = Regression(X[:, :, 0], Y), InnerLoop(0.01, first_order=first_order)
    for losses in ((wrong, right), (right, wrong)):
        with pytest.raises(InputError, match=r"has to call apply\(params, ...\)"):
            meta_loss(*losses, params, [data], data, inner, mapping=mapping)
    with pytest.raises(InputError, match=r"has to call apply\(params, ...\)"):
        adapt(wrong, params, [Regression(X[0, :, 0], Y[0])], inner)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: functional.batch_norm(x[:1], None, None, training=True), "over one value"),
        (lambda x: functional.instance_norm(x[..., None]), "over one value"),
        (lambda x: functional.batch_norm(x, x[0], x[0], training=True), "a batch updates"),
        (lambda x: functional.instance_norm(x[..., None], x[0], x[0]), "an instance updates"),
        (lambda x: functional.batch_norm(x, None, None), "needs running_mean and running_var"),
        (lambda x: functional.batch_norm(x, x[0], None), "needs running_mean and running_var"),
        (
            lambda x: functional.instance_norm(x[..., None], use_input_stats=False),
            "needs running_mean and running_var",
        ),
        (lambda x: functional.layer_norm(x, (3,)), r"over \(3,\) of an input \(3, 4\)"),
        (lambda x: functional.layer_norm(x, (2, 3, 4)), r"over \(2, 3, 4\) of an input"),
        (lambda x: functional.layer_norm(x, (4,), x[0, :1]), r"over \(4,\)"),
        (lambda x: functional.layer_norm(x, (4,), None, x[0, :1]), r"over \(4,\)"),
        (lambda x: functional.batch_norm(x, None, None, x[0, :1], training=True), "4 channels"),
        (lambda x: functional.batch_norm(x, x[0, :1], x[0, :1]), "4 channels"),
    ],
)
def test_norms_refuse_what_torch_does_not_do_as_a_function(call: Any, said: str) -> None:
    with Elementary(), pytest.raises(InputError, match=said):
        call(torch.rand(3, 4))


def test_norms_are_of_the_inputs_type() -> None:
    x, weight = torch.rand(3, 4, dtype=torch.bfloat16), torch.rand(4)
    for call in (
        lambda: functional.layer_norm(x, (4,), weight, weight),
        lambda: functional.batch_norm(x, None, None, weight, weight, training=True),
    ):
        with Elementary():
            ours = call()
        assert ours.dtype == call().dtype == torch.bfloat16
        assert torch.allclose(ours.float(), call().float(), atol=0.05)


@pytest.mark.parametrize(
    ("core", "way_out"),
    [(Counter, "in place.*return the new value"), (Branch, "through vmap: map one task")],
)
def test_what_fails_when_run_is_named(core: Any, way_out: str) -> None:
    params, apply = from_module(built(lambda: nn.Sequential(core())))
    loss, data = mean_squared_error(apply), Regression(X, Y)
    with pytest.raises(InputError, match=rf"^core.0 \({core.__name__}\).*{way_out}"):
        meta_loss(loss, loss, params, [data], data, InnerLoop(0.01))
    params, apply = from_module(built(lambda: nn.Linear(4, 4)))
    with pytest.raises(RuntimeError, match="mat1") as caught:  # a mistake of shapes stays itself
        apply(params, X[0][..., :3])
    assert caught.value.__notes__ == ["in core (Linear)"]
