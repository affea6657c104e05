"""Sinusoid regression: what one meta-iteration is, how it is validated and evaluated."""

import functools
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

import metarl
from metarl.distributed import ALONE, Ranks
from metarl.nets import MLP
from metarl.supervised import Regression, mean_squared_error

from ..configs.sinusoid import Config, EvaluateOptions
from ..contradictions import check_inner_options
from ..family import Evaluation, Metrics, State, mean_and_ci95
from ..machine import Machine
from ..memory import Needs, gradient_needs, tasks_at_once
from ..training.descent import adam_state, descend
from ..training.failures import non_finite
from .tasks import BLOCK, Episodes, Source

VALIDATION_SEED = 0
PAPER_SHOTS = (5, 10, 20)


def build(config: Config, machine: Machine, ranks: Ranks = ALONE) -> "SinusoidLearner":
    """Learner of the configuration; nothing is compiled yet."""
    return SinusoidLearner(config, machine, ranks)


class SinusoidLearner:
    """The `Learner` of sinusoid regression; see `metarl_experiments.family`."""

    shown = ("loss_before", "loss_after")
    higher_is_better = False

    def __init__(self, config: Config, machine: Machine, ranks: Ranks = ALONE) -> None:
        check_inner_options(config, config.inner_steps)
        self.config = config
        self.machine = machine.mapped("vmap")
        self.mapping = self.machine.task_mapping
        self.ranks = ranks
        self.inner = metarl.InnerLoop(
            config.inner_lr, config.first_order, recompute=machine.recompute
        )
        _, self.apply = metarl.from_module(self._net(0))
        self.loss = mean_squared_error(self.apply)
        self.source = Source(config, self.machine, ranks)

    def _net(self, seed: int) -> MLP:
        inputs = 3 if self.config.observe_task else 1
        sizes = (inputs, *self.config.hidden, 1)
        generator = metarl.torch_stream(seed, "initial-weights")
        net = MLP(sizes, init=self.config.init_std, generator=generator)
        return net.to(device=self.machine.device, dtype=self.machine.torch_dtype)

    def params(self, seed: int) -> metarl.Params:
        """Weights, and perhaps learned step sizes."""
        config = self.config
        params, _ = metarl.from_module(self._net(seed))
        if config.learned_lr != "no":
            steps = config.inner_steps if config.lr_per_step else None
            params |= metarl.learned_rates(
                params, config.inner_lr, per=config.learned_lr, steps=steps
            )
        return params

    def init(self, seed: int) -> State:
        """Theta, and Adam."""
        return adam_state(self.params(seed), self.config.lr, seed, self.machine)

    def meta_gradient(
        self,
        params: metarl.Params,
        episodes: Episodes,
        ranks: Ranks = ALONE,
        *,
        mapping: str | None = None,
    ) -> tuple[Tensor, metarl.Params]:
        """Mean over tasks, other ranks' too, of the loss after adaptation, and its gradient."""
        return metarl.meta_gradient(
            self.loss,
            self.loss,
            params,
            [episodes.support] * self.config.inner_steps,
            episodes.query,
            self.inner,
            mapping=mapping or self.mapping,
            reduce=ranks.reducer(self.machine.exact),
        )

    def needs(self, state: State) -> Needs:
        """Memory of an iteration: the meta-gradient's, beside points of two blocks of them."""
        return gradient_needs(
            lambda theta, part: self.meta_gradient(theta, part, mapping="vmap"),
            state.params,
            self.source.block(state.extra["seed"], 0)[0],
            self.machine,
            batches=BLOCK,
        )

    def step(self, state: State, iteration: int) -> Metrics:
        """One Adam step on the loss after adaptation."""
        config = self.config
        block = self.source.block(state.extra["seed"], iteration // BLOCK)
        support, query = block[iteration % BLOCK]
        metrics: dict[str, float] = {}
        if (iteration + 1) % config.log_every == 0 or iteration + 1 == config.iterations:
            before = self._curve(state.params, Episodes(support, query), 0)[0]
            metrics["loss_before"] = float(self.ranks.gather(torch.from_numpy(before)).mean())
        loss, slope = self.meta_gradient(state.params, Episodes(support, query), self.ranks)
        non_finite = functools.partial(self._raise_non_finite, state, support, query)
        with self.ranks.own_tasks(self.source.rows):
            return {**metrics, **descend(state, loss, slope, config, iteration, non_finite)}

    def _raise_non_finite(self, state: State, support: Regression, query: Regression) -> NoReturn:
        steps = self.config.inner_steps
        episodes = Episodes(support, query)

        def gradient(task: int) -> tuple[Tensor, ...]:
            one = episodes.part(slice(task, task + 1))
            return tuple(self.meta_gradient(state.params, one)[1].values())

        raise non_finite(
            state.params,
            {
                f"{k}.{f}": x
                for k, points in episodes._asdict().items()
                for f, x in points._asdict().items()
            },
            self.path(state.params, support, steps)[1:] if steps else [],
            torch.from_numpy(self._curve(state.params, episodes, steps)[-1]),
            gradient,
        )

    @torch.no_grad()
    def _unadapted(self, params: metarl.Params, query: Regression) -> Tensor:
        """Loss of theta itself on each task (task,)."""
        model, _ = metarl.split_rates(params)
        errors: Tensor = self.apply(model, query.x) - query.y
        return errors.square().mean((1, 2))

    @torch.no_grad()
    def path(self, params: metarl.Params, support: Regression, steps: int) -> list[metarl.Params]:
        """Parameters of each task after 0..steps steps, also beyond the trained ones."""
        model, inner = metarl.extended_rates(
            params,
            self.inner,
            trained_steps=self.config.inner_steps,
            steps=steps,
            factors=self.config.later_lr_factors,
        )
        return metarl.adapt_path(
            self.loss, model, [support] * steps, inner, mapping=self.machine.mapping
        )

    @torch.no_grad()
    def _curve(self, params: metarl.Params, episodes: Episodes, steps: int) -> np.ndarray:
        """Losses on the query after 0..steps steps on the support, (steps + 1, task)."""
        tasks = len(episodes.query.x)
        one = episodes.part(slice(1))
        at_once = 1 if self.machine.exact else tasks_at_once(params, one, steps)
        if tasks > at_once:
            parts = (episodes.part(slice(i, i + at_once)) for i in range(0, tasks, at_once))
            return np.concatenate([self._curve(params, part, steps) for part in parts], 1)
        first = self._unadapted(params, episodes.query)
        if steps == 0:
            return first[None].cpu().double().numpy()
        path = self.path(params, episodes.support, steps)
        adapted = [torch.func.vmap(self.loss)(theta, episodes.query) for theta in path[1:]]
        return torch.stack([first, *adapted]).cpu().double().numpy()

    def validate(self, state: State) -> Metrics:
        """Loss before and after the trained number of steps, on fixed tasks."""
        config = self.config
        _, episodes = self.source.held_out(
            VALIDATION_SEED, "validation", config.validation_tasks, config.validation_shots
        )
        own = episodes.part(self.ranks.rows(config.validation_tasks))
        curve = torch.from_numpy(self._curve(state.params, own, config.inner_steps))
        losses = self.ranks.gather(curve.T).T
        return {"loss_before": float(losses[0].mean()), "loss_after": float(losses[-1].mean())}

    def evaluate(self, params: metarl.Params, options: EvaluateOptions) -> Evaluation:
        """Adaptation curves; the other numbers of points of the paper stand in the variants."""
        curve = self._test_curve(params, options, options.shots)
        variants: dict[str, Any] = {
            "shots": options.shots,
            "median": np.median(curve, axis=1).tolist(),
            "worse_than_unadapted": (~(curve <= curve[0])).sum(1).tolist(),
            "non_finite": (~np.isfinite(curve)).sum(1).tolist(),
        }
        for shots in PAPER_SHOTS:
            if shots != options.shots:
                other = self._test_curve(params, options, shots)
                variants[f"{shots}-shot"] = mean_and_ci95(other)
        return Evaluation("loss", curve, variants)

    def _test_curve(
        self, params: metarl.Params, options: EvaluateOptions, shots: int
    ) -> np.ndarray:
        _, episodes = self.source.held_out(options.task_seed, "test", options.tasks, shots)
        return self._curve(params, episodes, options.steps)
