"""The experiment family: configuration, one iteration, validation, evaluation, resuming."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from images_data import glyphs

from metarl import from_module, split_rates, stream, torch_stream
from metarl.compiling import compiler_present
from metarl.errors import InputError, NonFiniteError
from metarl.images import SPLITS, ImageClasses, omniglot_split, sample_episodes
from metarl_experiments.bench.omniglot import as_kernel, gradient, loop_gradient
from metarl_experiments.configs.bounds import check_ranges
from metarl_experiments.configs.images import Config, EvaluateOptions
from metarl_experiments.evaluation.evaluate import Loaded
from metarl_experiments.images import tasks
from metarl_experiments.images.curves import MODES
from metarl_experiments.images.learner import ImagesLearner, build, step_weights
from metarl_experiments.images.tasks import Source, Tasks, build_net
from metarl_experiments.machine import Machine, resolve
from metarl_experiments.options import find_experiment, preset_config
from metarl_experiments.plots import images
from metarl_experiments.training.options import fresh

Mode = Literal["transductive", "support", "per_step"]
SMALL = Config(net="dense", meta_batch=3, validation_tasks=4, log_every=2, inner_lr=0.5)
MACHINE = resolve(Machine(device="cpu", compile="off"), threads=1)
OPTIONS = EvaluateOptions(tasks=5)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> ImagesLearner:
    return learner_of(SMALL, monkeypatch)


def learner_of(config: Config, monkeypatch: pytest.MonkeyPatch) -> ImagesLearner:

    def load(root: str | None) -> ImageClasses:
        assert root != "gone"
        return glyphs(1623)

    monkeypatch.setattr("metarl_experiments.images.tasks.load_omniglot", load)
    return build(config, MACHINE)


@pytest.mark.parametrize(
    ("config", "tasks", "steps", "test_steps", "queries"),
    [
        (Config(), 32, 1, 3, 1),
        (Config(ways=20), 16, 5, 5, 1),
        (Config(shots=5), 32, 1, 3, 5),
        (Config(dataset="mini-imagenet", query=15), 4, 5, 10, 15),
        (Config(dataset="mini-imagenet", shots=5, query=15), 2, 5, 10, 15),
        (Config(meta_batch=7, inner_steps=2), 7, 2, 3, 1),
    ],
)
def test_what_is_left_open_is_the_papers(
    config: Config, tasks: int, steps: int, test_steps: int, queries: int
) -> None:
    assert (config.tasks, config.steps, config.test_steps) == (tasks, steps, test_steps)
    assert config.queries == queries


@pytest.mark.parametrize("net", ["strided", "pooled", "dense"])
def test_the_last_layer_is_scaled_and_no_other(net: Literal["strided", "pooled", "dense"]) -> None:
    whole, small = (
        dict(build_net(Config(net=net, head_scale=scale), torch_stream(0, "w")).named_parameters())
        for scale in (1.0, 0.25)
    )
    assert whole["head.weight"].abs().min() > 0
    for name, p in small.items():
        assert torch.equal(p, whole[name] * (0.25 if name == "head.weight" else 1)), name


def test_each_seed_trains_on_tasks_of_its_own_and_validates_on_the_same(
    learner: ImagesLearner,
) -> None:
    asked = []
    train_tasks = learner.train_tasks

    def watched(seed: int, iteration: int) -> Tasks:
        asked.append((seed, iteration))
        return train_tasks(seed, iteration)

    learner.train_tasks = watched  # type: ignore[method-assign]
    states = [learner.init(seed) for seed in (0, 1)]
    for state in states:
        learner.step(state, 0)
    assert asked == [(0, 0), (1, 0)]
    assert not torch.equal(*(train_tasks(seed, 0).support.images for seed in (0, 1)))
    states[1].params = states[0].params
    assert learner.validate(states[0]) == learner.validate(states[1])


def test_validation_has_the_configured_tasks_and_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(replace(SMALL, shots=3, query=2), monkeypatch)
    tasks = learner.validation_tasks().part()
    assert tasks.support.labels.shape == (4, 5 * 3)
    assert tasks.query.labels.shape == (4, 5 * 2)


def test_the_accuracy_before_is_that_of_theta_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(replace(SMALL, log_every=1), monkeypatch)
    state = learner.init(0)
    tasks = learner.train_tasks(0, 0)
    model, _ = split_rates(state.params)
    right = [
        (learner.apply(model, images).argmax(-1) == labels).double().mean()
        for images, labels in zip(tasks.query.images, tasks.query.labels, strict=True)
    ]
    found = learner.step(state, 0)["accuracy_before"]
    assert found == pytest.approx(float(torch.stack(right).mean()), abs=1e-6)


def test_iterations_are_a_function_of_their_number(learner: ImagesLearner) -> None:
    straight, resumed = learner.init(3), learner.init(3)
    for i in range(4):
        metrics = learner.step(straight, i)
    assert ("accuracy_before" in metrics) == (4 % SMALL.log_every == 0)
    for i in range(2):
        learner.step(resumed, i)
    learner.validate(resumed)
    learner.evaluate(resumed.params, OPTIONS)
    for i in range(2, 4):
        learner.step(resumed, i)
    assert all(torch.equal(straight.params[n], resumed.params[n]) for n in straight.params)
    other = learner.init(4)
    assert not torch.equal(other.params["weights.0"], learner.init(3).params["weights.0"])


def test_splits_do_not_meet(learner: ImagesLearner) -> None:
    names = [set(learner.source.classes(s).names) for s in ("train", "validation", "test")]
    assert [len(n) for n in names] == [1100, 100, 423]
    assert len(set.union(*names)) == 1623


def gathered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], int]]:
    """Grows as images are gathered: names of the classes drawn from, and number of tasks."""
    found: list[tuple[tuple[str, ...], int]] = []
    gather = tasks.gather_episodes

    def recorded(data: ImageClasses, index: Any, **options: Any) -> Any:
        found.append((data.names, len(index.classes)))
        return gather(data, index, **options)

    monkeypatch.setattr(tasks, "gather_episodes", recorded)
    return found


def drawn_from(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[str, ...]]]:
    """Classes that an iteration, a validation and an evaluation draw from."""
    learner = learner_of(SMALL, monkeypatch)
    state, found = learner.init(0), gathered(monkeypatch)
    classes = []
    for act in (
        lambda: learner.step(state, 1),
        lambda: learner.validate(state),
        lambda: learner.evaluate(state.params, OPTIONS),
    ):
        found.clear()
        act()
        classes.append({names for names, _ in found})
    return classes


def test_each_purpose_draws_from_its_own_split(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [{omniglot_split(glyphs(1623), split).names} for split in SPLITS]
    assert drawn_from(monkeypatch) == own
    # Mutant: everything is measured on the classes of training.
    tasks = Source.tasks
    monkeypatch.setattr(Source, "tasks", lambda self, _, *rest: tasks(self, "train", *rest))
    assert drawn_from(monkeypatch) == [own[0]] * 3


@pytest.mark.parametrize(
    ("name", "value", "most"), [("images.curves.AT_ONCE", 2, 2), ("memory.HELD", 1, 1)]
)
def test_images_of_few_tasks_are_held_at_once(
    name: str, value: int, most: int, learner: ImagesLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, found = learner.init(0), gathered(monkeypatch)
    evaluated, validated = learner.evaluate(state.params, OPTIONS), learner.validate(state)
    assert max(count for _, count in found) == OPTIONS.tasks
    found.clear()
    monkeypatch.setattr(f"metarl_experiments.{name}", value)
    again = learner.evaluate(state.params, OPTIONS)
    assert np.array_equal(again.per_task, evaluated.per_task)
    assert again.variants == evaluated.variants
    assert learner.validate(state) == pytest.approx(validated, rel=1e-5)
    assert max(count for _, count in found) == most


def test_evaluations_that_are_too_large() -> None:
    check_ranges(EvaluateOptions(tasks=10_000, steps=100))
    with pytest.raises(ValueError, match="--tasks 10000 x --steps 101: together more than"):
        check_ranges(EvaluateOptions(tasks=10_000, steps=101))


@pytest.mark.parametrize("mode", ["transductive", "support", "per_step"])
def test_evaluation(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = learner_of(replace(SMALL, batch_norm=mode), monkeypatch)
    state = learner.init(0)
    found = learner.evaluate(state.params, OPTIONS)
    assert found.metric == "accuracy"
    assert found.per_task.shape == (4, 5)
    assert found.per_task.min() >= 0
    assert found.per_task.max() <= 1
    names = {f"{m}, {q} queries" for m in ("transductive", "support") for q in (1, 15)}
    assert set(found.variants) == {"ways", "shots", *names}
    # The paper's protocol, however the run was trained.
    assert found.variants["transductive, 1 queries"]["mean"] == found.per_task.mean(1).tolist()
    assert found.variants["support, 1 queries"]["mean"] != found.per_task.mean(1).tolist()
    # More steps leave the earlier points alone.
    longer = learner.evaluate(state.params, replace(OPTIONS, steps=5)).per_task
    assert np.array_equal(longer[:4], found.per_task)


def test_evaluation_asks_for_no_more_images_than_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for shots, queries in ((5, {5, 1, 15}), (8, {8, 1, 12}), (15, {5, 1})):
        learner = learner_of(replace(SMALL, shots=shots, query=1), monkeypatch)
        found = learner.evaluate(learner.init(0).params, replace(OPTIONS, tasks=2))
        names = {f"{m}, {q} queries" for m in ("transductive", "support") for q in queries}
        assert set(found.variants) == {"ways", "shots", *names}


@pytest.mark.parametrize("mode", ["transductive", "support"])
def test_the_query_is_normalised_as_configured(
    mode: Literal["transductive", "support"], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(replace(SMALL, batch_norm=mode), monkeypatch)
    params, tasks = learner.init(0).params, learner.train_tasks(0, 0)
    found = float(learner.meta_gradient(params, tasks, 0)[0].loss)
    curves = learner.adapted.curves(params, tasks, 1, *MODES)
    losses = {m: float(curve.loss[-1].mean()) for m, curve in zip(MODES, curves, strict=True)}
    assert found == pytest.approx(losses.pop(mode), rel=1e-5)
    assert found != pytest.approx(losses.popitem()[1], rel=1e-3)


def test_tasks_made_otherwise_have_nothing_beside_them() -> None:
    omniglot = find_experiment("omniglot")

    def loaded(**changes: Any) -> Loaded:
        config = replace(preset_config(omniglot, "default"), **changes)
        unread: Any = None
        return Loaded(omniglot, unread, config, build(config, MACHINE), {})

    usual, upright = loaded(), loaded(rotate=False)
    assert [points.label for points in images.published(usual)] == [
        f"{label} (published)" for label in images.PUBLISHED
    ]
    assert images.shipped_groups([usual]) == {
        "omniglot-5way-1shot": "omniglot-5way-1shot (shipped)"
    }
    assert images.published(upright) == []
    assert images.shipped_groups([usual, upright]) == {}


def test_presets_hold_the_papers_step_sizes_and_bounds() -> None:
    """The authors' inner loss is a sum: 0.4 (5-way), 0.1 (20-way) and 0.01 (mini) times N."""

    def of(experiment: str, *argv: str) -> Config:
        found: Config = fresh(find_experiment(experiment), argv).config
        return found

    paper = ("--preset=paper",)
    assert of("omniglot", *paper).inner_lr == pytest.approx(5 * 0.4)
    assert of("omniglot", *paper, "--ways=20").inner_lr == pytest.approx(20 * 0.1)
    assert of("mini-imagenet").inner_lr == pytest.approx(5 * 0.01)
    assert of("omniglot", *paper).bound is None
    assert of("mini-imagenet").bound == 0.13
    assert of("mini-imagenet", "--shots=5").bound == 0.67
    assert of("mini-imagenet", "--shots=5", "--clip=2").bound == 2
    assert of("mini-imagenet", "--shots=5").tasks == 2


def test_memory_is_that_with_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    def needs(**changes: Any) -> int:
        config = replace(SMALL, net="strided", inner_steps=4, multi_step_until=10_000, **changes)
        learner = learner_of(config, monkeypatch)
        return learner.needs(learner.init(0)).working

    first, exact = needs(first_order=True), needs()
    assert exact > 1.3 * first
    assert needs(first_order_until=1000) == pytest.approx(exact, rel=0.05)
    assert needs(first_order_until=SMALL.iterations) == pytest.approx(first, rel=0.05)


@pytest.mark.parametrize("per", ["tensor", "element"])
def test_learned_rates_and_per_step_norms(per: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(
        SMALL, learned_lr=per, lr_per_step=True, batch_norm="per_step", inner_steps=2, clip=1.0
    )
    learner = learner_of(config, monkeypatch)
    state = learner.init(0)
    before = {n: p.detach().clone() for n, p in state.params.items()}
    learner.step(state, 0)
    model, rates = split_rates(state.params)
    assert set(rates) == {n for n in model if "norms" not in n}
    assert tuple(model["norms.0.gamma"].shape) == (2, 256)
    assert all(not torch.equal(before[n], p) for n, p in state.params.items())
    assert np.isfinite(learner.evaluate(state.params, OPTIONS).per_task).all()


def test_second_derivatives_come_in_later(monkeypatch: pytest.MonkeyPatch) -> None:
    annealed = learner_of(replace(SMALL, first_order_until=2), monkeypatch)
    tasks = annealed.train_tasks(0, 0)
    params = annealed.init(0).params

    def gradient_of(learner: ImagesLearner, iteration: int) -> list[torch.Tensor]:
        return list(learner.meta_gradient(params, tasks, iteration)[1].values())

    exact = gradient_of(learner_of(SMALL, monkeypatch), 0)
    first = gradient_of(learner_of(replace(SMALL, first_order=True), monkeypatch), 0)
    assert not all(map(torch.equal, exact, first))
    for iteration in range(4):
        truth = first if iteration < 2 else exact
        assert all(map(torch.equal, gradient_of(annealed, iteration), truth))


def test_multi_step_weights_move_to_the_last_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, inner_steps=4, multi_step_until=10)
    assert step_weights(config, 0) == [0.25] * 4
    assert step_weights(config, 5) == [0.125] * 3 + [0.625]
    assert step_weights(config, 10) is None
    assert step_weights(replace(config, inner_steps=1), 0) is None
    learner = learner_of(config, monkeypatch)
    params, tasks = learner.init(0).params, learner.train_tasks(0, 0)
    (curves,) = learner.adapted.curves(params, tasks, 4, "transductive")
    curve = curves.loss.mean(1)
    found = float(learner.meta_gradient(params, tasks, 5)[0].loss)
    truth = float(curve[1:] @ torch.tensor([0.125, 0.125, 0.125, 0.625]))
    assert found == pytest.approx(truth, rel=1e-5)
    # Mutants: equal weights, and the last loss alone.
    assert found != pytest.approx(float(curve[1:].mean()), rel=1e-3)
    assert found != pytest.approx(float(curve[-1]), rel=1e-3)


def test_non_finite_is_caught_before_theta_is_spoilt(learner: ImagesLearner) -> None:
    state = learner.init(0)
    state.params["head.bias"].data[0] = float("nan")
    before = state.params["weights.0"].detach().clone()
    with pytest.raises(NonFiniteError, match=r"parameter head\.bias is not finite") as error:
        learner.step(state, 0)
    assert "support.images" in error.value.batch
    assert torch.equal(state.params["weights.0"], before)


def test_bad_choices_are_input_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    with pytest.raises(InputError, match="--net strided"):
        build(Config(dataset="mini-imagenet"), MACHINE)
    for config in (SMALL, replace(SMALL, dataset="mini-imagenet")):
        with pytest.raises(InputError, match="--data DIR"):
            build(config, MACHINE).init(0)
    # What needs no data works without: report and evaluation find out by themselves.
    assert build(SMALL, MACHINE).params(0)
    with pytest.raises(InputError, match="metarl download omniglot"):
        build(replace(SMALL, data=str(tmp_path)), MACHINE).init(0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SMALL, ways=101), "--ways 101: omniglot has 100 validation classes"),
        (replace(SMALL, ways=1101), "--ways 1101: omniglot has 1100 train classes"),
        (replace(SMALL, shots=11), "--shots 11 .* are 22 of a class, and omniglot has 20"),
        (replace(SMALL, query=20), "are 21 of a class"),
    ],
)
def test_tasks_that_the_data_set_is_too_small_for(
    config: Config, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=message):
        learner_of(config, monkeypatch).init(0)


@pytest.mark.skipif(not compiler_present(), reason="no C++ compiler")
def test_compiled_convolutions_equal_eager_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, net="strided", learned_lr="tensor", ways=3)
    learner = learner_of(config, monkeypatch)
    params, tasks = learner.init(0).params, learner.train_tasks(0, 0)
    truth, slope = learner.meta_gradient(params, tasks, 0, mapping="vmap")
    found, compiled = learner.meta_gradient(params, tasks, 0, mapping="threads+compile")
    assert float(found.loss) == pytest.approx(float(truth.loss), rel=1e-5)
    for name, p in slope.items():
        assert float((compiled[name] - p).norm()) < 1e-4 * float(p.norm()), name


@pytest.mark.parametrize("mapping", ["chunk:2", "vmap"])
def test_bench_compares_equal_gradients(mapping: str) -> None:
    learner = build(
        Config(inner_lr=0.5), replace(MACHINE, mapping=mapping, dtype="float64", compile="off")
    )
    params, _ = from_module(learner.net(0))
    tasks = Tasks(
        *(
            e._replace(images=e.images.double())
            for e in sample_episodes(
                glyphs(12), stream(0, "e", 0), tasks=3, ways=5, shots=1, queries=1
            )
        )
    )
    ours = gradient(learner, params, tasks)
    loop = loop_gradient({n: as_kernel(p) for n, p in params.items()}, tasks, 0.5)
    for name, found in ours.items():
        truth = loop[name]
        truth = truth.permute(2, 3, 1, 0).reshape(found.shape) if truth.ndim == 4 else truth
        assert float((found - truth).norm()) < 1e-10 * float(truth.norm())
