"""Compiling functions of a chunk of tasks, derivatives included."""

import functools
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .products import SMALL_PRODUCTS, use_onednn

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
    run: Callable[[Any, Any], Any],
) -> tuple[Callable[[Any, Any], Any], set[tuple[torch.Size, ...]]]:
    """The chunk function compiled, and the shapes it has been called with, to be kept up."""
    programs: dict[Any, tuple[Callable[..., Any], TreeSpec]] = {}

    def compiled(shared: Any, data: Any) -> Any:
        tensors: list[Tensor] = []
        form: list[Any] = [torch.get_num_threads(), torch.is_grad_enabled()]
        _take_apart((shared, data), tensors, form)
        key = tuple(form)
        if key not in programs:
            programs[key] = _traced(run, (shared, data), tensors)
        program, out_spec = programs[key]
        return tree_unflatten(program(*tensors), out_spec)

    return compiled, set()


def _take_apart(tree: Any, tensors: list[Tensor], form: list[Any]) -> None:
    """Append the tensors, and all that a program is compiled for. Called in every iteration."""
    if isinstance(tree, Tensor):
        tensors.append(tree)
        form.append((tree.shape, tree.dtype, tree.device, tree.requires_grad))
    elif isinstance(tree, dict):
        form.append((dict, *tree))
        for x in tree.values():
            _take_apart(x, tensors, form)
    elif isinstance(tree, tuple | list):
        form.append((type(tree), len(tree)))
        for x in tree:
            _take_apart(x, tensors, form)
    else:
        form.append((type(tree), tree))


def _traced(
    run: Callable[[Any, Any], Any], inputs: Any, tensors: list[Tensor]
) -> tuple[Callable[..., Any], TreeSpec]:
    """Record the tensor operations of one call, derivatives and all, and compile the record.

    The compiler's own tracer cannot differentiate an ``autograd.Function`` inside ``torch.func``
    transforms; a record of what really ran has no such limits, nor guards to pass at each call.
    """
    leaves, spec = tree_flatten(inputs)
    out_spec: list[TreeSpec] = []

    def flat(*tensors: Tensor) -> list[Any]:
        given = iter(tensors)
        filled = [next(given) if isinstance(x, Tensor) else x for x in leaves]
        out, found = tree_flatten(run(*tree_unflatten(filled, spec)))
        out_spec.append(found)
        return out

    from torch._inductor import compile as compile_graph  # takes a second, and not all compile

    graph = make_fx(flat, decomposition_table=SMALL_PRODUCTS)(*tensors)
    if not torch.is_grad_enabled():
        use_onednn(graph)
    return compile_graph(graph, [*tensors]), out_spec[0]
