"""Impossible combinations of options, each with an error that says why."""

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from oracles import rows, sinusoids, task

from metarl import (
    InnerLoop,
    InputError,
    adapt,
    adapt_tasks,
    from_module,
    learned_rates,
    meta_loss,
    reptile_loss,
    resolve_mapping,
)
from metarl.kept import kept_if


class Agent(torch.nn.Module):
    """Called by methods of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(1, 1)

    def get_value(self, x: torch.Tensor) -> Any:
        return self.body(x)


@dataclass
class Hidden:
    """What pytree does not look into."""

    y: torch.Tensor


class Whole:
    """Nor into this."""

    def __init__(self, y: torch.Tensor) -> None:
        self.y = y


@dataclass
class Settable:
    """A loss that cannot be told from others."""

    weight: float = 1.0

    def __call__(self, params: Any, batch: Any) -> torch.Tensor:
        return self.weight * S.loss(params, batch)


S = sinusoids(width=6)
BIAS = "layers.0.bias"


def meta(**options: Any) -> Any:
    given = {"params": S.params, "supports": S.supports, "query": S.query, "inner": InnerLoop()}
    return meta_loss(S.loss, S.loss, **(given | options))


class Counted(NamedTuple):
    loss: torch.Tensor
    count: int


def counted(params: Any, batch: Any) -> Counted:
    return Counted(S.loss(params, batch), 3)


def rates(shape: tuple[int, ...]) -> InnerLoop:
    return InnerLoop({n: torch.ones(()) for n in S.params} | {BIAS: torch.ones(shape)})


def inside_threads() -> Any:
    return torch.func.grad(
        lambda p: adapt_tasks(S.loss, p, S.supports, InnerLoop(), mapping="threads")[BIAS].sum()
    )(S.params)


def mapped_in_bfloat16(mapping: str) -> Any:
    with torch.autocast("cpu"):
        return meta(mapping=mapping)


WRONG: dict[str, Callable[[], Any]] = {
    "'rmsprop': choose one of sgd, momentum, adam": lambda: InnerLoop(optimizer="rmsprop"),  # type: ignore[arg-type]
    "lr is nan: it must be finite": lambda: InnerLoop(float("nan")),
    "lr is a tensor: give a number": lambda: InnerLoop(torch.tensor(0.1)),  # type: ignore[arg-type]
    "per is 'layer': choose one of tensor": lambda: learned_rates(S.params, 0.1, per="layer"),  # type: ignore[arg-type]
    "steps is 0: it must be a whole number, at least 1": lambda: learned_rates(
        S.params, 0.1, per="tensor", steps=0
    ),
    "^lr is inf: it must be finite": lambda: learned_rates(S.params, float("inf"), per="tensor"),
    "clip is 0: it must be above 0": lambda: InnerLoop(clip=0),
    "selects none of the parameters layers.0.weight": lambda: meta(
        inner=InnerLoop(adapted=lambda name: False)
    ),
    "inner_lr.layers.0.bias moves nothing": lambda: meta(
        params=S.params | learned_rates({BIAS: S.params[BIAS]}, 0.1, per="tensor"),
        inner=InnerLoop(adapted=lambda name: name != BIAS),
    ),
    "no step size for layers.0.weight": lambda: meta(inner=InnerLoop({BIAS: torch.ones(())})),
    "step size for bias: no such parameter": lambda: meta(
        inner=InnerLoop({"bias": torch.ones(())})
    ),
    r"inner is a float: give a metarl\.InnerLoop": lambda: meta(inner=0.1),
    "field count of what the loss returned is of type int: return tensors": lambda: meta_loss(
        S.loss, counted, S.params, S.supports, S.query, InnerLoop()
    ),
    "step_weights require gradients": lambda: meta(
        step_weights=torch.ones(len(S.supports)).requires_grad_()
    ),
    r"shape \(5,\) fits no parameter of shape \(6,\)": lambda: meta(inner=rates((5,))),
    r"shape \(2, 5\) fits no parameter": lambda: meta(inner=rates((2, 5))),
    r"shape \(0, 6\) fits no parameter": lambda: meta(inner=rates((0, 6))),
    r"require gradients.*learned_rates": lambda: meta(
        inner=InnerLoop({n: torch.ones((), requires_grad=True) for n in S.params})
    ),
    "2 weights for 3 inner steps": lambda: meta(step_weights=(0.5, 0.5)),
    "of type tuple: it must return a scalar, or a NamedTuple": lambda: meta_loss(
        S.loss,
        lambda params, batch: (S.loss(params, batch),) * 2,
        S.params,
        S.supports,
        S.query,
        InnerLoop(),
        step_weights=(0.2, 0.3, 0.5),
    ),
    "several need step_weights": lambda: meta(query=[S.query] * 3),
    "list of 2 batches": lambda: meta(query=[S.query] * 2, step_weights=(1, 1, 1)),
    r"one common leading task dimension, got \['3', '4'\]": lambda: meta(
        query=rows(S.query, [0, 1, 2])
    ),
    "goes as a Python number": lambda: meta(supports=[torch.tensor(1)]),
    "a Regression that looks like a single batch": lambda: meta(supports=S.supports[0]),
    "a tuple that looks like a single batch": lambda: meta(supports=tuple(S.supports[0])),
    "a list that looks like": lambda: adapt(
        S.loss, S.params, list(task(S.supports[0], 0)), InnerLoop()
    ),
    "a dict that looks like": lambda: adapt_tasks(
        S.loss,
        S.params,
        S.supports[0]._asdict(),
        InnerLoop(),  # type: ignore[arg-type]
    ),
    "no tensors": lambda: meta(supports=[], query=()),
    "0 weights for 0 inner steps": lambda: meta(supports=[], step_weights=()),
    "a batch holds tensors that require gradients": lambda: meta(
        query=type(S.query)(*(x.clone().requires_grad_() for x in S.query))
    ),
    "a batch holds an object of type ndarray": lambda: meta(query=(S.query[0], S.query[1].numpy())),
    "a batch holds an object of type Hidden": lambda: meta(query=(S.query[0], Hidden(S.query[1]))),
    "a batch holds an object of type Whole": lambda: meta(query=(S.query[0], Whole(S.query[1]))),
    "a batch holds an object of type UserDict": lambda: meta(
        query=(S.query[0], UserDict(y=S.query[1]))
    ),
    "^InnerLoop.lr holds tensors that require gradients": lambda: reptile_loss(
        S.loss,
        S.params,
        S.supports,
        InnerLoop({n: torch.ones((), requires_grad=True) for n in S.params}),
    ),
    "gives learned step sizes no gradient": lambda: reptile_loss(
        S.loss, S.params | learned_rates(S.params, 0.1, per="tensor"), S.supports, InnerLoop()
    ),
    "cannot be differentiated again: inside them": lambda: torch.func.grad(
        lambda p: meta(params=p)
    )(S.params),
    "threads' cannot run inside torch.func": inside_threads,
    "'threads' does not see torch.autocast.*use vmap or chunk:N": lambda: mapped_in_bfloat16(
        "threads"
    ),
    r"'vmap\+compile' does not see torch.autocast": lambda: mapped_in_bfloat16("vmap+compile"),
    r"InnerLoop.lr\['w'\] is a list: give a number or a tensor": lambda: InnerLoop({"w": [0.1]}),  # type: ignore[dict-item]
    "params holds no parameter": lambda: meta(params={}),
    "has a parameter inner_lr.a, as theta names learned": lambda: from_module(
        torch.nn.ModuleDict({"inner_lr": torch.nn.ParameterDict({"a": torch.ones(1)})})
    ),
    "InnerLoop.first_order is 3: give True or False": lambda: InnerLoop(0.1, 3),  # type: ignore[arg-type]
    "InnerLoop.lr is a str: give a number": lambda: InnerLoop("0.1"),  # type: ignore[arg-type]
    "adapted is a str: give a function": lambda: InnerLoop(adapted=BIAS),  # type: ignore[arg-type]
    "a Tensor that looks like a single batch": lambda: meta(supports=torch.ones(1, 4, 3)),
    "params is a Linear: give a dict": lambda: meta(params=torch.nn.Linear(1, 1)),
    "from_module takes an nn.Module, not <class": lambda: from_module(torch.nn.Linear),  # type: ignore[arg-type]
    "Agent has no forward, which apply calls: write one": lambda: from_module(Agent()),
    "of type dict: it must": lambda: adapt_tasks(
        lambda p, b: {"loss": S.loss(p, b)}, S.params, S.supports, InnerLoop()
    ),
    "a value of type NoneType: it must": lambda: meta_loss(
        S.loss, lambda p, b: None, S.params, S.supports, S.query, InnerLoop()
    ),
    r"of type Tensor of shape \(1,\): it must": lambda: meta_loss(
        S.loss, lambda p, b: S.loss(p, b)[None], S.params, S.supports, S.query, InnerLoop()
    ),
    "unhashable type: 'Settable': give a plain function, freeze": lambda: kept_if(
        True, lambda loss: loss, Settable()
    ),
    "native_layer_norm.*wrong second derivatives": lambda: adapt_tasks(
        lambda p, b: torch.native_layer_norm(p[BIAS], (6,), None, None, 1e-5)[0].sum(),
        S.params,
        S.supports,
        InnerLoop(),
    ),
    "mapping is 'chunk:99999": lambda: resolve_mapping("chunk:" + "9" * 5000, torch.ones(2)),
    "mapping is 'chunk:0'": lambda: meta(mapping="chunk:0"),
    r"mapping is 'vmap\+fast'": lambda: meta(mapping="vmap+fast"),
    "mapping is 'pmap': use auto, vmap": lambda: resolve_mapping("pmap", torch.ones(2)),
}


@pytest.mark.parametrize("message", WRONG)
def test_impossible_options_say_why(message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        WRONG[message]()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_loss_that_vmap_cannot_map_is_told_the_way_out() -> None:
    def loss(params: Any, batch: Any) -> Any:
        return S.loss(params, batch) * (1.0 if float(batch.x.sum()) > 0 else 2.0)

    given = (loss, loss, S.params, S.supports, S.query, InnerLoop())
    with pytest.raises(RuntimeError, match="vmap") as caught:
        meta_loss(*given, mapping="vmap")
    assert "torch.where for if" in caught.value.__notes__[0]
    assert "chunk:1" in caught.value.__notes__[0]
    assert meta_loss(*given, mapping="chunk:1").isfinite()


def test_held_gradients_cannot_be_differentiated_again() -> None:
    g = torch.autograd.grad(meta(), list(S.params.values()), create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        g[0].sum().backward()
