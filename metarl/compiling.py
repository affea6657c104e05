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

from .products import use_onednn

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
        leaves, spec = tree_flatten((shared, data))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        rest = tuple(_TENSOR if isinstance(x, Tensor) else x for x in leaves)
        kinds = tuple((x.shape, x.dtype, x.device) for x in tensors)
        key = (str(spec), rest, kinds, torch.get_num_threads(), torch.is_grad_enabled())
        if key not in programs:
            programs[key] = _traced(run, tensors, rest, spec)
        program, out_spec = programs[key]
        return tree_unflatten(program(*tensors), out_spec)

    return compiled, set()


_TENSOR = object()


def _traced(
    run: Callable[[Any, Any], Any], tensors: list[Tensor], rest: tuple[Any, ...], spec: TreeSpec
) -> tuple[Callable[..., Any], TreeSpec]:
    """Record the tensor operations of one call, derivatives and all, and compile the record.

    The compiler's own tracer cannot differentiate an ``autograd.Function`` inside ``torch.func``
    transforms; a record of what really ran has no such limits.
    """
    out_spec: list[TreeSpec] = []

    def flat(*tensors: Tensor) -> list[Any]:
        given = iter(tensors)
        leaves = [next(given) if x is _TENSOR else x for x in rest]
        out, found = tree_flatten(run(*tree_unflatten(leaves, spec)))
        out_spec.append(found)
        return out

    graph = make_fx(flat)(*tensors)
    if not torch.is_grad_enabled():
        use_onednn(graph)
    return torch.compile(graph, fullgraph=True, dynamic=False), out_spec[0]
