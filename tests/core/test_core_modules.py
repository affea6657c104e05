"""Any module through from_module: what works equals plain autograd, what cannot work is named."""

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from modules import (
    NORMS,
    Attention,
    Cell,
    Encoder,
    Heads,
    Packed,
    Tied,
    WeightNorm,
    WideNorm,
    X,
    Y,
    built,
    called,
)
from oracles import F64, draw, flat, rel, slope
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metarl import InnerLoop, InputError, adapt_tasks, from_module, meta_gradient, meta_loss
from metarl.elementary.norms import weight_norm
from metarl.modules import held_by
from metarl.params import Params
from metarl.supervised.losses import mean_squared_error
from metarl.supervised.sinusoid import Regression

INNER = InnerLoop(0.01)
SEEN = torch.ones(3, 3, dtype=torch.bool).tril()
SUPPORT, QUERY = Regression(X, Y), Regression(X + 1, Y)


MAPPED: dict[str, Callable[[], nn.Module]] = {
    "tied and unused": lambda: built(Tied),
    "layer norm": lambda: built(lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((3, 4)))),
    "layer norm, a class of its own": lambda: built(
        lambda: nn.Sequential(nn.Linear(4, 4), WideNorm((3, 4)))
    ),
    **{name: functools.partial(called, norm) for name, norm in NORMS.items()},
    "root mean square norm": lambda: built(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.RMSNorm((3, 4)))
    ),
    "group norm": lambda: built(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4)), image=True
    ),
    "batch norm": lambda: built(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3, track_running_stats=False)),
        image=True,
    ),
    "batch norm, stored": lambda: built(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)), image=True, train=False
    ),
    "instance norm": lambda: built(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.InstanceNorm2d(3, affine=True)), image=True
    ),
    "convolutions": lambda: built(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)), image=True
    ),
    "dropout, evaluating": lambda: built(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), train=False
    ),
    "LSTM": lambda: built(lambda: nn.LSTM(4, 5, batch_first=True)),
    "LSTM, projected": lambda: built(lambda: nn.LSTM(4, 5, bias=False, proj_size=3)),
    "GRU": lambda: built(lambda: nn.GRU(4, 5, 2, batch_first=True, bidirectional=True)),
    "RNN": lambda: built(lambda: nn.RNN(4, 5, 2, dropout=0.5), train=False),
    "RNN, ReLU": lambda: built(lambda: nn.RNN(4, 5, nonlinearity="relu")),
    "GRU, a cell": lambda: built(lambda: Cell(nn.GRUCell)),
    "LSTM, a cell": lambda: built(lambda: Cell(nn.LSTMCell)),
    "RNN, a cell": lambda: built(lambda: Cell(nn.RNNCell)),
    "attention": lambda: built(Attention),
    "attention, evaluating": lambda: built(Attention, train=False),
    "attention, called": lambda: built(lambda: Heads(scale=0.3)),
    "attention, called, causal": lambda: built(lambda: Heads(is_causal=True)),
    "attention, called, grouped": lambda: built(lambda: Heads(enable_gqa=True)),
    "attention, called, masked": lambda: built(lambda: Heads(attn_mask=SEEN)),
    "transformer": lambda: built(lambda: Encoder(0.0)),
    "transformer, evaluating": lambda: built(lambda: Encoder(0.1), train=False),
    "transformer, causal": lambda: built(lambda: Encoder(0.0, mask=~SEEN, is_causal=True)),
    "transformer, padded": lambda: built(
        lambda: Encoder(0.1, src_key_padding_mask=torch.tensor([[False, False, True]] * 6)),
        train=False,
    ),
}


@sdpa_kernel(SDPBackend.MATH)
def reference(module: nn.Module) -> Tensor:
    """Plain autograd of two inner steps on the module itself, a task at a time.

    Attention is torch's unfused one, which alone has a second derivative.
    """
    start = {n: p for n, p in module.named_parameters() if p.requires_grad}
    total = torch.zeros((), dtype=F64)
    for x, y in zip(X, Y, strict=True):
        params = start
        for _ in range(2):
            loss = (functional_call(module, params, (x,)) - y).square().mean()
            g = torch.autograd.grad(
                loss, list(params.values()), create_graph=True, materialize_grads=True
            )
            params = {n: p - 0.01 * d for (n, p), d in zip(params.items(), g, strict=True)}
        total = total + (functional_call(module, params, (x + 1,)) - y).square().mean() / len(X)
    return flat(torch.autograd.grad(total, list(start.values()), materialize_grads=True))


def gradient(apply: Callable[..., Tensor], params: Params, mapping: str) -> Tensor:
    loss = mean_squared_error(apply)
    return slope(
        meta_loss(loss, loss, params, [SUPPORT] * 2, QUERY, INNER, mapping=mapping), params
    )


@pytest.mark.parametrize("name", MAPPED)
def test_mapped_modules_equal_plain_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = MAPPED[name]()
    truth, (params, apply) = reference(module), from_module(module)
    for mapping in ("vmap", "chunk:1"):
        assert rel(gradient(apply, params, mapping), truth) < 1e-12
        with torch.no_grad():  # the module is used under one transform after another
            adapt_tasks(mean_squared_error(apply), params, [SUPPORT], INNER, mapping=mapping)
    if name.partition(",")[0] in ("layer norm", "batch norm", "instance norm") and (
        "stored" not in name
    ):
        # Without `apply` too: the norm may be the loss's own.
        bare = gradient(lambda p, x: functional_call(module, p, (x,)), params, "vmap")
        assert rel(bare, truth) < 1e-12
        # Mutant: torch's fused norms under vmap, silently wrong in the second derivative.
        monkeypatch.setattr("metarl.elementary.mode._ELEMENTARY", {})
        assert rel(gradient(apply, params, "vmap"), truth) > 1e-4


def test_padding_rows_of_an_embedding_are_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    words = nn.Sequential(nn.Embedding(7, 4, padding_idx=-7), nn.Flatten(-2), nn.Linear(12, 1))
    params, apply = from_module(words.double())
    index = torch.randint(7, (3, 8, 3), generator=torch.Generator().manual_seed(0))
    index[..., 0] = 0
    batch = (index, draw(3, 8, 1))

    def loss(p: Params, batch: Any) -> Tensor:
        return (apply(p, batch[0]) - batch[1]).square().mean()

    def slopes(mapping: str) -> Params:
        found: Params = meta_gradient(
            loss, loss, params, [batch] * 2, batch, InnerLoop(0.1), mapping=mapping
        )[1]
        return found

    one, mapped = slopes("chunk:1"), slopes("vmap")
    assert not one["0.weight"][0].any()
    assert rel(flat(list(mapped.values())), flat(list(one.values()))) < 1e-12
    # Mutant: torch's own second derivative trains the row.
    monkeypatch.setattr("metarl.elementary.mode._ELEMENTARY", {})
    assert slopes("vmap")["0.weight"][0].abs().max() > 1e-4


class Causal(nn.Module):
    """Makes its mask once, and remembers what it put out last."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.out, self.mask = nn.Linear(4, 4), nn.Linear(4, 1), None

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = x.new_ones(x.shape[-2], x.shape[-2]).tril()
        scores = (self.query(x) @ x.mT).masked_fill(self.mask == 0, -torch.inf)
        self.last = self.out(scores.softmax(-1) @ x)
        return self.last.mean(-2)


def test_attributes_that_a_call_sets_are_gone_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = built(Causal)
    net.core.last = None
    called = copy.deepcopy(net)
    net.core.mask = None
    truth = reference(copy.deepcopy(net))
    for module in (called, net):
        params, apply = from_module(module)
        for mapping in ("vmap", "chunk:1", "vmap", "threads"):
            assert rel(gradient(apply, params, mapping), truth) < 1e-12
    # Mutant: the mask stays, though the transform that it was made in has ended.
    monkeypatch.setattr("metarl.params.held_by", lambda part: held_by(part)._replace(attributes=[]))
    params, apply = from_module(net)
    with pytest.raises(RuntimeError, match="escaped"):
        gradient(apply, params, "chunk:1")


def test_weight_norm_is_differentiated_twice() -> None:
    module = built(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    written = built(lambda: WeightNorm(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))))
    written.load_state_dict(module.state_dict())
    by_hand, (params, apply) = reference(written), from_module(module)
    assert [n for n, _ in module.named_parameters()] == [n for n, _ in written.named_parameters()]
    for mapping in ("vmap", "chunk:1"):
        assert rel(gradient(apply, params, mapping), by_hand) < 1e-12
    assert rel(reference(module), by_hand) > 1e-4  # Mutant: torch's own.


@pytest.mark.parametrize(("shape", "dim"), [((4,), 0), ((4,), -1), ((3, 4), 1), ((2, 3, 4), -2)])
def test_weight_norm_is_torchs(shape: tuple[int, ...], dim: int) -> None:
    v, g = draw(*shape), draw(*(n if d == dim % len(shape) else 1 for d, n in enumerate(shape)))
    g = g if dim != -1 else draw(*[1] * len(shape))
    assert torch.allclose(weight_norm(v, g, dim), torch._weight_norm(v, g, dim), atol=1e-14)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(4, 5, 2, dropout=0.5, bidirectional=True, proj_size=3),
        nn.LSTM(4, 5, 2, bias=False, batch_first=True),
        nn.GRU(4, 5, 3, bidirectional=True),
        nn.RNN(4, 5, 2, batch_first=True),
        nn.RNN(4, 5, nonlinearity="relu"),
    ],
    ids=str,
)
def test_recurrent_layers_and_their_last_states_are_torchs(layer: nn.RNNBase) -> None:
    _, apply = from_module(layer.double().eval())
    params, x = dict(layer.named_parameters()), draw(6, 3, 4)
    start = torch.func.functional_call(layer, params, (x.flip(0),))[1]
    packed = nn.utils.rnn.pack_sequence([x[0], x[1, :2]])
    for given in ((x,), (x[0],), (x, start), (packed,)):
        expected = torch.utils._pytree.tree_leaves(functional_call(layer, params, given))
        found = torch.utils._pytree.tree_leaves(apply(params, *given))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_what_is_padding_throughout_stays_finite() -> None:
    padded = torch.tensor([[False, False, True]] * 5 + [[True] * 3])
    module = built(lambda: Encoder(0.0, src_key_padding_mask=padded))
    params, apply = from_module(module)
    for mapping in ("vmap", "chunk:1"):
        assert rel(gradient(apply, params, mapping), reference(module)) < 1e-12


@pytest.mark.parametrize("name", ["LSTM", "GRU", "GRU, a cell"])
def test_recurrent_modules_on_threads(name: str) -> None:
    module = MAPPED[name]()
    params, apply = from_module(module)
    torch.set_num_threads(2)
    try:
        assert rel(gradient(apply, params, "threads"), reference(module)) < 1e-12
    finally:
        torch.set_num_threads(1)


def test_packed_sequences_are_refused_where_they_have_no_derivative() -> None:
    params, apply = from_module(built(Packed))
    apply(params, X[0])
    with pytest.raises(InputError, match="give padded ones, and mask the loss"):
        gradient(apply, params, "chunk:1")


def test_apply_takes_exactly_its_parameters() -> None:
    params, apply = from_module(built(lambda: nn.Linear(4, 4)))
    with pytest.raises(InputError, match=r"core.bias is missing"):
        apply({n: p for n, p in params.items() if n != "core.bias"}, X[0])
    with pytest.raises(InputError, match=r"inner_lr.core.bias is unknown"):
        apply(params | {"inner_lr.core.bias": torch.ones(())}, X[0])
    params["loss.bound"] = torch.ones(())  # the dict is the caller's, to add to
    apply({n: p for n, p in params.items() if n != "loss.bound"}, X[0])


def test_copies_are_leaves_of_the_type_asked_for() -> None:
    module = built(Tied)
    params, apply = from_module(module, dtype=torch.float32)
    assert {p.dtype for p in params.values()} == {torch.float32}
    assert all(p.is_leaf and p.requires_grad for p in params.values())
    assert "core.two.weight" not in params  # tied: once
    assert "frozen" not in params
    module.core.one.weight.data.zero_()  # type: ignore[union-attr]
    assert float(params["core.one.weight"].detach().abs().sum()) > 0
    out = [apply(params, X[0].float())]
    thread = threading.Thread(target=lambda: out.append(apply(params, X[0].float())))
    thread.start()
    thread.join()
    assert torch.equal(out[0], out[1])


def test_dropout_differs_between_tasks_and_follows_the_seed() -> None:
    params, apply = from_module(built(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))))
    same = Regression(*(x[:1].expand(2, *x.shape[1:]) for x in SUPPORT))

    def ends(mapping: str) -> Tensor:
        torch.manual_seed(0)
        with torch.no_grad():
            adapted = adapt_tasks(
                mean_squared_error(apply), params, [same] * 2, INNER, mapping=mapping
            )
        return torch.stack([flat(p[i] for p in adapted.values()) for i in range(2)])

    for mapping in ("vmap", "chunk:1"):
        assert torch.equal(ends(mapping), ends(mapping))
        assert rel(ends(mapping)[0], ends(mapping)[1]) > 1e-4
