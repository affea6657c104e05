"""Few-shot images: what one meta-iteration is, how it is validated and evaluated."""

import functools
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

import metarl
from metarl.distributed import ALONE, Ranks
from metarl.errors import InputError
from metarl.images import adapts, cross_entropy, repeat_support

from ..configs.images import Config, EvaluateOptions
from ..contradictions import check_inner_options
from ..family import Evaluation, Metrics, State, mean_and_ci95
from ..machine import Machine
from ..memory import Needs, gradient_needs
from ..training.descent import adam_state, descend
from ..training.failures import non_finite
from .curves import MODES, AdaptedNet, query_at
from .tasks import ChosenTasks, Source, Tasks, build_net

VALIDATION_SEED = 0
MANY_QUERIES = 15


def build(config: Config, machine: Machine, ranks: Ranks = ALONE) -> "ImagesLearner":
    """Learner of the configuration; reads no image and compiles nothing yet."""
    return ImagesLearner(config, machine, ranks)


def step_weights(config: Config, iteration: int) -> list[float] | None:
    """Weights of the losses after step 1, ..., K; None where only the last counts."""
    if iteration >= config.multi_step_until or config.steps == 1:
        return None
    earlier = (1 - iteration / config.multi_step_until) / config.steps
    return [*[earlier] * (config.steps - 1), 1 - earlier * (config.steps - 1)]


class ImagesLearner:
    """The `Learner` of few-shot images; see `metarl_experiments.family`."""

    shown = ("accuracy_before", "accuracy_after")
    higher_is_better = True

    def __init__(self, config: Config, machine: Machine, ranks: Ranks = ALONE) -> None:
        if config.dataset == "mini-imagenet" and config.net == "strided":
            raise InputError("--net strided is Omniglot's: mini-imagenet takes pooled or dense")
        check_inner_options(config, config.steps)
        self.config = config
        self.ranks, self.rows = ranks, ranks.rows(config.tasks)
        # On a CPU a compiled chain of single tasks stays in the cache; what is not compiled gains
        # from several tasks to each operation.
        on_cpu = machine.device == "cpu"
        eager = machine.mapped("chunk:8" if on_cpu else "vmap").mapping
        compiled = "threads" if on_cpu else "vmap"
        self.machine = machine.mapped(compiled if machine.compiled else eager)
        self.mapping = self.machine.task_mapping
        self.inner = metarl.InnerLoop(
            config.inner_lr, config.first_order, adapts, recompute=machine.recompute
        )
        _, self.apply = metarl.from_module(self.net(0))
        self.loss = cross_entropy(self.apply)
        self.adapted = AdaptedNet(config, self.apply, self.loss, self.inner, eager)
        self.source = Source(config, machine, ranks)
        self.validation_tasks = functools.cache(self._validation_tasks)

    def net(self, seed: int) -> torch.nn.Module:
        """Fresh weights."""
        net = build_net(self.config, metarl.torch_stream(seed, "initial-weights"))
        return net.to(device=self.machine.device, dtype=self.machine.torch_dtype)

    def params(self, seed: int) -> metarl.Params:
        """Weights, and perhaps learned step sizes."""
        config = self.config
        params, _ = metarl.from_module(self.net(seed))
        if config.learned_lr != "no":
            moving = {name: p for name, p in params.items() if adapts(name)}
            steps = config.steps if config.lr_per_step else None
            params |= metarl.learned_rates(
                moving, config.inner_lr, per=config.learned_lr, steps=steps
            )
        return params

    def init(self, seed: int) -> State:
        """Theta, and Adam; reads the data set, and refuses tasks that it is too small for."""
        self.source.check()
        return adam_state(self.params(seed), self.config.lr, seed, self.machine)

    def train_tasks(self, seed: int, iteration: int) -> Tasks:
        """Own part of a meta-batch, a pure function of both numbers."""
        rng = metarl.stream(seed, "train-tasks", iteration)
        count, queries = self.config.tasks, self.config.queries
        return self.source.tasks("train", rng, count, queries, self.rows).part()

    def meta_gradient(
        self,
        params: metarl.Params,
        tasks: Tasks,
        iteration: int,
        ranks: Ranks = ALONE,
        *,
        mapping: str | None = None,
    ) -> tuple[Any, metarl.Params]:
        """Mean over tasks, those of other ranks too, of loss and accuracy; the loss's gradient."""
        config = self.config
        weights = step_weights(config, iteration)
        steps = range(1, config.steps + 1) if weights else (config.steps,)
        first_order = config.first_order or iteration < config.first_order_until
        return metarl.meta_gradient(
            self.loss,
            self.loss,
            params,
            repeat_support(tasks.support, config.steps),
            [query_at(tasks, k, config.moments) for k in steps],
            replace(self.inner, first_order=first_order),
            step_weights=weights,
            mapping=mapping or self.mapping,
            reduce=ranks.reducer(self.machine.exact),
        )

    def needs(self, state: State) -> Needs:
        """Memory of an iteration with second derivatives, if there will be any."""
        from_, iterations = self.config.first_order_until, self.config.iterations
        iteration = from_ if from_ < iterations else 0
        return gradient_needs(
            lambda theta, part: self.meta_gradient(theta, part, iteration, mapping="vmap"),
            state.params,
            self.train_tasks(state.extra["seed"], 0),
            self.machine,
        )

    def step(self, state: State, iteration: int) -> Metrics:
        """One Adam step on the loss after adaptation."""
        config = self.config
        tasks = self.train_tasks(state.extra["seed"], iteration)
        metrics: dict[str, float] = {}
        if (iteration + 1) % config.log_every == 0 or iteration + 1 == config.iterations:
            (curve,) = self.adapted.curves(state.params, tasks, 1, config.moments)
            metrics["accuracy_before"] = float(self.ranks.gather(curve.accuracy[0]).mean())
        result, slope = self.meta_gradient(state.params, tasks, iteration, self.ranks)
        non_finite = functools.partial(self._raise_non_finite, state, tasks, iteration)
        with self.ranks.own_tasks(self.rows):
            found = descend(
                state, result.loss, slope, config, iteration, non_finite, clip=config.bound
            )
        return {**metrics, "accuracy_after": float(result.accuracy), **found}

    def _raise_non_finite(self, state: State, tasks: Tasks, iteration: int) -> NoReturn:
        params, steps = state.params, self.config.steps
        (curve,) = self.adapted.curves(params, tasks, steps, self.config.moments)

        def gradient(task: int) -> tuple[Tensor, ...]:
            one = slice(task, task + 1)
            return tuple(self.meta_gradient(params, tasks.part(one), iteration)[1].values())

        path = self.adapted.path(params, tasks, steps)[1:]
        data = {
            f"{name}.{field}": value
            for name, episode in tasks._asdict().items()
            for field, value in zip(("images", "labels"), episode, strict=False)
        }
        raise non_finite(params, data, path, curve.loss[-1], gradient)

    def _validation_tasks(self) -> ChosenTasks:
        rng = metarl.stream(VALIDATION_SEED, "validation-tasks")
        count = self.config.validation_tasks
        return self.source.tasks(
            "validation", rng, count, self.config.queries, self.ranks.rows(count)
        )

    def validate(self, state: State) -> Metrics:
        """Accuracy before and after the trained number of steps, on fixed tasks."""
        config = self.config
        (curve,) = self.adapted.curves(
            state.params, self.validation_tasks(), config.steps, config.moments
        )
        loss, accuracy = (self.ranks.gather(rows.double().T).T for rows in curve)
        return {
            "accuracy_before": float(accuracy[0].mean()),
            "accuracy_after": float(accuracy[-1].mean()),
            "loss_after": float(loss[-1].mean()),
        }

    def evaluate(self, params: metarl.Params, options: EvaluateOptions) -> Evaluation:
        """Accuracy curves as in the paper: transductive, as many query images as shots.

        Both modes, and one and fifteen query images (as many as a class has), are variants.
        """
        config = self.config
        steps = config.test_steps if options.steps is None else options.steps
        variants: dict[str, Any] = {"ways": config.ways, "shots": config.shots}
        found: dict[tuple[str, int], np.ndarray] = {}
        most = self.source.classes("test").images.shape[1] - config.shots
        for queries in dict.fromkeys((min(config.shots, most), 1, min(MANY_QUERIES, most))):
            rng = metarl.stream(options.task_seed, "test-tasks", queries)
            tasks = self.source.tasks("test", rng, options.tasks, queries)
            curves = self.adapted.curves(params, tasks, steps, *MODES)
            for mode, curve in zip(MODES, curves, strict=True):
                found[mode, queries] = curve.accuracy.double().numpy()
                variants[f"{mode}, {queries} queries"] = mean_and_ci95(found[mode, queries])
        return Evaluation("accuracy", found["transductive", min(config.shots, most)], variants)
