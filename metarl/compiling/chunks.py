"""Compiling functions of a chunk of tasks, derivatives included.

The compiler's own tracer cannot differentiate an ``autograd.Function`` inside ``torch.func``
transforms; a record of the tensor operations of one call has no such limits, nor guards to pass at
each call.
"""

import functools
import os
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..errors import InputError
from .linear import lower_linear, onednn_present
from .products import PRODUCTS, use_onednn
from .stages import split_stages

Ready = Callable[[Any, Any], bool]
"""Whether a call with these arguments, on this thread, finds its program built."""
Read = Callable[[Sequence[Tensor]], tuple[Any, Any]]
"""The tensors of a call -> its ``(shared, data)``."""

_PROBE = "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"


@functools.cache
def compiler_present() -> bool:
    """Whether torch can compile here, tried out once a process.

    That takes a Python its tracer supports, and a C++ compiler that finds the headers of Python
    and OpenMP, which generated code includes.
    """
    try:
        from torch._dynamo.eval_frame import is_dynamo_supported
    except (ImportError, RuntimeError):
        return False
    return bool(is_dynamo_supported()) and _builds(_PROBE)


def _builds(source: str) -> bool:
    apple = sys.platform == "darwin"
    compiler = os.environ.get("CXX") or ("clang++" if apple else "g++")
    openmp = ["-Xclang", "-fopenmp", "-undefined", "dynamic_lookup"] if apple else ["-fopenmp"]
    # Where torch looks for OpenMP on macOS, which has none of its own.
    roots = [os.environ.get(name) for name in ("OMP_PREFIX", "CONDA_PREFIX")] if apple else []
    roots += ["/opt/homebrew/opt/libomp", "/usr/local/opt/libomp"] if apple else []
    paths = [sysconfig.get_path("include"), *(os.path.join(r, "include") for r in roots if r)]
    includes = [option for path in paths for option in ("-isystem", path)]
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "probe.so")
        command = [compiler, "-shared", "-fPIC", *openmp, *includes, "-x", "c++", "-", "-o", target]
        try:
            done = subprocess.run(
                command, input=source, text=True, capture_output=True, timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


@functools.lru_cache(maxsize=64)
def compile_chunks(
    run: Callable[[Any, Any], Any], *, threaded: bool
) -> tuple[Callable[[Any, Any], Any], Ready]:
    """The chunk function compiled, at its first call with each form, and whether it is already.

    Args:
        run: the chunk function.
        threaded: whether several threads will call it at a time.
    """

    def build(read: Read, tensors: list[Tensor]) -> Callable[..., Any]:
        graph, out_spec = _record(lambda *given: run(*read(given)), tensors)
        program = _compile(graph, tensors, threaded)
        return lambda *given: tree_unflatten(program(*given), out_spec)

    return _per_form(build)


@functools.lru_cache(maxsize=64)
def compile_products(
    linearise: Callable[[Any, Any], Callable[[Any], Any]], *, threaded: bool
) -> tuple[Callable[[Any, Any], Callable[[Any], Any]], Ready]:
    """The same of a chunk function whose output is a function of one tree like ``shared``.

    What does not depend on that tree is computed once, by the chunk function.
    """

    def build(read: Read, tensors: list[Tensor]) -> Callable[..., Any]:
        shared, spec = tree_flatten(read(tensors)[0])
        # Copies, for a record tells tensors apart as objects.
        vector = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in shared]

        def whole(*given: Tensor) -> Any:
            own, v = given[: len(tensors)], given[len(tensors) :]
            return linearise(*read(own))(tree_unflatten(v, spec))

        graph, out_spec = _record(whole, [*tensors, *vector])
        before, after = split_stages(graph, len(tensors))
        first = _compile(before, tensors, threaded)
        second = _compile(after, [*first(*tensors), *vector], threaded)

        def linearised(*given: Tensor) -> Callable[[Any], Any]:
            known = first(*given)

            def product(v: Any) -> Any:
                leaves = [x.contiguous() for x in tree_flatten(v)[0]]
                return tree_unflatten(second(*known, *leaves), out_spec)

            return product

        return linearised

    return _per_form(build)


def _per_form(
    build: Callable[[Read, list[Tensor]], Callable[..., Any]],
) -> tuple[Callable[[Any, Any], Any], Ready]:
    """A function ``(shared, data)`` built anew for all that a record is made for."""
    built: dict[Any, Callable[..., Any]] = {}

    def ready(shared: Any, data: Any) -> bool:
        return _form(shared, data)[0] in built

    def compiled(shared: Any, data: Any) -> Any:
        key, tensors = _form(shared, data)
        if key not in built:
            leaves, spec = tree_flatten((shared, data))
            rest = [_TENSOR if isinstance(x, Tensor) else x for x in leaves]

            def read(given: Sequence[Tensor]) -> Any:
                inputs = iter(given)
                return tree_unflatten([next(inputs) if x is _TENSOR else x for x in rest], spec)

            if len(built) == _FORMS:
                del built[next(iter(built))]
            elif len(built) == _MANY:
                warnings.warn(
                    f"a loss is compiled for the {_MANY + 1}th time, for other shapes or Python "
                    "numbers each time: give a number that changes as a tensor, one entry a task",
                    stacklevel=2,
                )
            # Each an object of its own, as which a record tells tensors apart: one that comes in
            # several places now may be several the next time.
            built[key] = build(read, [x.detach().requires_grad_(x.requires_grad) for x in tensors])
        return built[key](*tensors)

    return compiled, ready


_TENSOR = object()
# Programs of one chunk function: kept, and before it is told that they are many.
_FORMS, _MANY = 64, 15


def _form(shared: Any, data: Any) -> tuple[Any, list[Tensor]]:
    """All that a program is compiled for, and the tensors that it is called with."""
    tensors: list[Tensor] = []
    form: list[Any] = [torch.get_num_threads(), torch.is_grad_enabled()]
    _take_apart((shared, data), tensors, form)
    return tuple(form), tensors


def _take_apart(tree: Any, tensors: list[Tensor], form: list[Any]) -> None:
    """Append the tensors, and all that a program is compiled for. Called in every iteration."""
    if isinstance(tree, Tensor):
        tensors.append(tree)
        form.append((tree.shape, tree.stride(), tree.dtype, tree.device, tree.requires_grad))
    elif isinstance(tree, dict):
        form.append((dict, *tree))
        for x in tree.values():
            _take_apart(x, tensors, form)
    elif isinstance(tree, tuple | list):
        form.append((type(tree), len(tree)))
        for x in tree:
            _take_apart(x, tensors, form)
    else:
        leaves, spec = tree_flatten(tree)
        if spec.is_leaf():
            form.append((type(tree), tree))
            return
        form.append(spec)  # of a type that its owner has registered
        for x in leaves:
            _take_apart(x, tensors, form)


def _record(fn: Callable[..., Any], tensors: list[Tensor]) -> tuple[GraphModule, TreeSpec]:
    """The tensor operations of ``fn(*tensors)``, flattened, and the structure of its output."""
    out_spec: list[TreeSpec] = []

    def flat(*given: Tensor) -> list[Any]:
        out, spec = tree_flatten(fn(*given))
        out_spec.append(spec)
        return out

    try:
        graph = make_fx(flat, decomposition_table=PRODUCTS)(*tensors)
    except RuntimeError as error:
        if "tracing tensor" in str(error):
            raise InputError(
                "a loss that is compiled reads a number out of a tensor, as float(x), if x > 0 and "
                "the checks of torch.distributions do: give these validate_args=False, use "
                "torch.where, or do not compile"
            ) from error
        raise
    if not torch.is_grad_enabled():
        use_onednn(graph)
    return graph, out_spec[0]


def _compile(graph: GraphModule, tensors: list[Any], threaded: bool) -> Callable[..., Any]:
    from torch._inductor import compile as compile_graph  # takes a second, and not all compile

    if onednn_present():
        lower_linear()
    for node in graph.graph.nodes:
        # Recorded values, each of a fake mode of its own: the compiler wants a common one, or none.
        node.meta.pop("val", None)
    # The compiler's own patterns would make a product and a sum one operation again, which copies
    # the summand first. Kernels called from C++ leave the interpreter to other threads; this takes
    # longer to compile.
    options = {"pattern_matcher": False, "cpp_wrapper": threaded}
    program: Callable[..., Any] = compile_graph(graph, [*tensors], options=options)
    return program
