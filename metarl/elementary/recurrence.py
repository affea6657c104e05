"""Recurrent layers of elementary operations, under the signatures of torch's own.

torch's go through no vmap, and on GPUs have no second derivative.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InputError

State = tuple[Tensor, ...]
"""What a layer hands on in time, its output first."""
Step = Callable[..., State]
"""``(what the input adds to the gates, state, w_hh, b_hh, *projection) -> state``."""


def _lstm_step(
    given: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None, *projection: Tensor
) -> State:
    h, c = state
    i, f, g, o = (given + functional.linear(h, w_hh, b_hh)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    for weight in projection:
        h = functional.linear(h, weight)
    return h, c


def _gru_step(given: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    (h,) = state
    r, z, n = given.chunk(3, -1)
    r_h, z_h, n_h = functional.linear(h, w_hh, b_hh).chunk(3, -1)
    n = (n + (r + r_h).sigmoid() * n_h).tanh()
    return (n + (z + z_h).sigmoid() * (h - n),)


def _tanh_step(given: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    return ((given + functional.linear(state[0], w_hh, b_hh)).tanh(),)


def _relu_step(given: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None) -> State:
    return ((given + functional.linear(state[0], w_hh, b_hh)).relu(),)


def _cell(step: Step) -> Callable[..., Any]:
    """One step of one layer: ``torch.lstm_cell`` and its like."""

    def cell(
        input: Tensor,  # noqa: A002  (the names are torch's)
        hx: Tensor | Sequence[Tensor],
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor | State:
        state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        after = step(functional.linear(input, w_ih, b_ih), state, w_hh, b_hh)
        return after[0] if isinstance(hx, Tensor) else after

    return cell


def _layers(step: Step, fused: Callable[..., Any]) -> Callable[..., Any]:
    """All steps of all layers: ``torch.lstm`` and its like, ``fused``."""

    def run(*args: Any) -> tuple[Tensor, ...]:
        if not isinstance(args[3], bool):  # of a packed sequence, whose layout is another
            if torch._C._functorch.maybe_current_level() is not None:
                raise InputError(
                    "torch differentiates recurrent layers of packed sequences once at most: give "
                    "padded ones, and mask the loss"
                )
            packed: tuple[Tensor, ...] = fused(*args)
            return packed
        x, starts, weights, biased, layers, dropout, training, bidirectional, batch_first = args
        starts = (starts,) if isinstance(starts, Tensor) else starts
        x = x.transpose(0, 1) if batch_first else x
        directions = 2 if bidirectional else 1
        each = len(weights) // (layers * directions)
        ends: list[State] = []
        for layer in range(layers):
            outputs = []
            for backwards in range(directions):
                i = len(ends)
                state, own = tuple(s[i] for s in starts), weights[each * i : each * (i + 1)]
                out, end = _in_time(step, x, state, own, biased=biased, backwards=bool(backwards))
                outputs.append(out)
                ends.append(end)
            x = torch.cat(outputs, -1)
            if layer < layers - 1:
                x = functional.dropout(x, dropout, training)
        x = x.transpose(0, 1) if batch_first else x
        return x, *(torch.stack(part) for part in zip(*ends, strict=True))

    return run


def _in_time(
    step: Step,
    x: Tensor,
    state: State,
    weights: Sequence[Tensor],
    *,
    biased: bool,
    backwards: bool,
) -> tuple[Tensor, State]:
    """One layer in one direction: its outputs ``(time, batch, feature)`` and its last state."""
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = rest[:2] if biased else (None, None)
    projection = rest[2:] if biased else rest
    given = functional.linear(x, w_ih, b_ih).unbind(0)
    outputs = []
    for now in given[::-1] if backwards else given:
        state = step(now, state, w_hh, b_hh, *projection)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


RECURRENT: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.lstm: _layers(_lstm_step, torch.lstm),
    torch.gru: _layers(_gru_step, torch.gru),
    torch.rnn_tanh: _layers(_tanh_step, torch.rnn_tanh),
    torch.rnn_relu: _layers(_relu_step, torch.rnn_relu),
    torch.lstm_cell: _cell(_lstm_step),
    torch.gru_cell: _cell(_gru_step),
    torch.rnn_tanh_cell: _cell(_tanh_step),
    torch.rnn_relu_cell: _cell(_relu_step),
}
"""torch's functions, and what stands for them."""
