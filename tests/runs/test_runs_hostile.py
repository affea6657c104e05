"""Files made to run code or to exhaust the machine do neither; no unpickler on any path."""

import ast
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from documents import DOCUMENTS, blocks
from runs_at import make_run, newest, seal

from metarl.errors import CheckpointError, InputError, MetarlError
from metarl.runs import arrays, load_checkpoint, open_run, read_run

ROOT = Path(__file__).parents[2]


def bomb(canary: Path) -> bytes:
    """A pickle that touches the canary when it is loaded, whatever the loader expects."""
    return f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def npy(header: str, body: bytes = b"", version: int = 1) -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + body


def object_array(canary: Path) -> bytes:
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    return npy(header, bomb(canary))


def compressed(canary: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (16777216,), }"
        file.writestr("weight.npy", npy(header, bytes(1 << 26)))
    return buffer.getvalue()


def huge(shape: str) -> Callable[[Path], bytes]:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    return lambda canary: archive(**{"weight.npy": npy(header)})


def evaluating(canary: Path) -> bytes:
    header = f"__import__('os').system('touch {canary}')"
    return archive(**{"weight.npy": npy(header)})


def yaml(canary: Path) -> bytes:
    return f"!!python/object/apply:os.system ['touch {canary}']".encode()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "pickle": bomb,
    "object_array": lambda canary: archive(**{"weight.npy": object_array(canary)}),
    "bare_object_array": object_array,
    "pickle_as_npy": lambda canary: archive(**{"weight.npy": bomb(canary)}),
    "torch_save": lambda canary: archive(**{"archive/data.pkl": bomb(canary)}),
    "code_in_header": evaluating,
    "deep_header": lambda canary: archive(**{"weight.npy": npy("(" * 110)}),
    "yaml": yaml,
    "deep_json": lambda canary: b'{"state":' + b"[" * 500_000,
    "zip_bomb": compressed,
    "huge_shape": huge("(1099511627776,)"),
    "wrapping_shape": huge("(4294967296, 4294967296)"),
    "negative_shape": huge("(-1,)"),
    "text": lambda canary: b"<html>not found</html>",
}
DEEP = b'{"state": ' + b"[" * 900 + b"]" * 900 + b"}"


@pytest.mark.parametrize("name", ["params.npz", "optimizer.npz", "state.json", "manifest.json"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_checkpoints_do_nothing(tmp_path: Path, name: str, payload: str) -> None:
    run, canary = tmp_path / "run", tmp_path / "canary"
    make_run(run, 0)
    (newest(run) / name).write_bytes(PAYLOADS[payload](canary))
    if name != "manifest.json":
        seal(newest(run))  # the forger knows the format
    for load in (load_checkpoint, lambda path: read_run(path.parent.parent)):
        with pytest.raises(CheckpointError, match=r"manifest\.json|contents") as error:
            load(newest(run))
        assert "\n" not in str(error.value)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "best.json", "evaluation.json"])
@pytest.mark.parametrize("payload", ["pickle", "yaml", "deep_json", "text"])
def test_hostile_files_of_a_run_do_nothing(tmp_path: Path, name: str, payload: str) -> None:
    run, canary = tmp_path / "run", tmp_path / "canary"
    make_run(run, 3)
    (run / name).write_bytes(PAYLOADS[payload](canary) + b"\n")
    with pytest.raises(MetarlError, match=name) as error:
        read_run(run)
    assert isinstance(error.value, CheckpointError if name == "config.json" else InputError)
    assert "\n" not in str(error.value)
    assert not canary.exists()


def test_deep_state_is_refused_even_when_sealed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, 0)
    (newest(run) / "state.json").write_bytes(DEEP)
    seal(newest(run))
    with pytest.raises(CheckpointError, match="deep"):
        load_checkpoint(newest(run))


def test_duplicate_members_are_refused() -> None:
    good = arrays.encode({"weight": np.arange(1000.0)})
    buffer = io.BytesIO(good)
    with zipfile.ZipFile(buffer, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("weight.npy", b"again")
    with pytest.raises(ValueError, match="unexpected member"):
        arrays.decode(buffer.getvalue())


FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"),
}
RUNNERS = {"eval", "exec"}  # the builtins: a module's eval() is another
UNPICKLERS = {
    *(
        "read_pickle",
        "torch.load",
        "torch.hub.load",
        "broadcast_object_list",
        "scatter_object_list",
    ),
    *("all_gather_object", "gather_object", "send_object_list", "recv_object_list"),
}


def offences(source: str, *, tests: bool = False) -> list[str]:
    """What in a module could unpickle or run data; tests may pickle, but not the rest."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found += [
            f"{node.lineno}: import {name}"
            for name in names
            if name.split(".")[0] in FORBIDDEN_MODULES and not (tests and name == "pickle")
        ]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            runs = called in RUNNERS and not (tests and called == "exec")  # of the README's code
            bad = runs or {called, called.rpartition(".")[2]} & UNPICKLERS
            opens = called in ("np.load", "numpy.load")
            bad = bad or options.get("allow_pickle", str(opens)) != "False"
            if bad or options.get("weights_only", "True") != "True":
                found.append(f"{node.lineno}: {called}")
    return found


def test_no_unpickler_on_any_path() -> None:
    found = []
    for folder in ("metarl", "envs", "experiments", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found += [
                f"{path.relative_to(ROOT)}:{offence}"
                for offence in offences(path.read_text(), tests=folder == "tests")
            ]
    for page in DOCUMENTS:
        for code in blocks(page, "python"):
            # Which unpickles nothing unless it is asked to.
            told = (x for x in offences(code) if not x.endswith("numpy.load"))
            found += [f"{page.name}:{offence}" for offence in told]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, dill.source",
        "from cloudpickle import loads",
        "def f():\n    import yaml",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "numpy.lib.format.read_array(file, allow_pickle=True)",
        "model.load(path, weights_only=False)",
        "torch.distributed.broadcast_object_list(values)",
        "dist.all_gather_object(out, value)",
    ],
)
def test_the_lint_sees(source: str) -> None:
    assert offences(source)


def test_the_lint_lets_pass() -> None:
    assert not offences("module.eval()\nnp.load(path, allow_pickle=False)\njson.loads(text)")
    assert not offences("import pickle", tests=True)


def test_a_run_whose_config_was_exchanged_does_not_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, 2)
    (run / "config.json").write_text('{"seed": 1}')
    with (
        open_run(run, resume=True, tensorboard=False) as opened,
        pytest.raises(CheckpointError, match="another config"),
    ):
        opened.load()
    with pytest.raises(CheckpointError, match="another config"):
        read_run(run)
