"""The numbers in the tables of estimators are those of the enumerated decision processes."""

import re

import test_rl_meta_gradient as meta
import test_rl_surrogates as hessians
import torch
from documents import TOP
from oracles import rel

from metarl import InnerLoop
from metarl.rl.batches import MetaBatch
from metarl.rl.objectives import policy_objectives

KINDS = ("loglik", "lvc", "dice")
Table = dict[str, list[str]]


def table(heading: str) -> Table:
    """Row -> cells of the table whose first line holds a text."""
    lines = (TOP / "docs" / "estimators.md").read_text().splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.startswith("|") and heading in line)
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name.replace("`", "")] = cells
    return rows


def assert_says(cell: str, errors: list[float]) -> None:
    """The cell is the lowest to the highest of the errors, rounded, or a bound of them."""
    if cell.startswith("below "):
        assert max(errors) < float(cell.removeprefix("below "))
        return
    found = re.fullmatch(r"([\d.]+) to ([\d.]+)", cell)
    assert found, cell
    for told, error in zip(found.groups(), (min(errors), max(errors)), strict=True):
        assert told == f"{error:.{len(told.partition('.')[2])}f}"


def test_table_of_hessians() -> None:
    rows = table("| horizon 1 |")
    for kind in KINDS:
        for cell, horizon in zip(rows[kind], (1, 2, 3), strict=True):
            errors = []
            for seed in range(5):
                mdp = hessians._enumerate(horizon, seed)
                weights = hessians._to_go(mdp.rewards)
                errors.append(hessians._errors(mdp, hessians._expectation(mdp, kind, weights))[1])
            assert_says(cell, errors)


def first_order(lr: float) -> meta.PolicyObjectives:
    inner = InnerLoop(lr, first_order=True)
    return policy_objectives(meta.softmax_policy, inner)


def infinite_batch(seed: int) -> dict[str, float]:
    """Relative errors against the gradient of J(x + alpha grad J(x))."""
    paths, x = meta.problem(seed)

    def adapted(x: torch.Tensor) -> torch.Tensor:
        return x + meta.ALPHA * meta.gradient_of(paths.value, x)

    truth = meta.gradient_of(lambda x: paths.value(adapted(x)), x)
    batches = [
        meta.stacked(paths, (paths.probabilities(at)[:, None] * paths.to_go())[None])
        for at in (x, adapted(x))
    ]
    data = MetaBatch((batches[0],), batches[1])
    lr = meta.ALPHA * paths.to_go().numel()
    losses = {kind: meta.build(kind, lr=lr) for kind in KINDS}
    losses["loglik, first order"] = first_order(lr)
    return {name: rel(meta.surrogate_gradient(o, x, data), truth) for name, o in losses.items()}


def finite_batch(episodes: int, seed: int) -> dict[str, float]:
    """Relative errors against the gradient of E J(x + alpha g(D))."""
    paths, x = meta.problem(seed)
    truth = meta.finite_batch_gradient(paths, x, episodes)
    data, lr = meta.finite_batches(paths, x, episodes), meta.ALPHA * meta.H
    losses = {kind: meta.build(kind, lr=lr) for kind in KINDS}
    losses["loglik, first order"] = first_order(lr)
    losses["loglik with emaml"] = meta.build(lr=lr, sampling_correction="emaml")
    found = {name: meta.surrogate_gradient(o, x, data) for name, o in losses.items()}
    term = found["loglik with emaml"] - found["loglik"]
    errors = {name: rel(gradient, truth) for name, gradient in found.items()}
    return errors | {f"{kind} twice": rel(found[kind] + term, truth) for kind in ("lvc", "dice")}


def test_table_of_meta_gradients() -> None:
    rows = table("infinite inner batch")
    columns = [
        [infinite_batch(seed) for seed in meta.SEEDS],
        [finite_batch(1, seed) for seed in meta.SEEDS],
        [finite_batch(2, seed) for seed in (1, 2)],
    ]
    for name, cells in rows.items():
        names = ("lvc twice", "dice twice") if "refused" in name else (name,)
        for cell, column in zip(cells, columns, strict=True):
            errors = [one[n] for one in column for n in names if n in one]
            assert bool(cell) == bool(errors), f"{name}: {cell}"
            if cell:
                assert_says(cell, errors)
