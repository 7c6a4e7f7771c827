"""Does an executable come back from its folder, and is a folder that was tampered with refused?"""

# ruff: noqa: F821 (a graph function names the tensor functions of its class)
from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_graphs import random_module

import gputune as gt
from gputune import relax
from gputune.errors import GputuneError, RecordError, UserError
from gputune.ir.check import check
from gputune.ir.equal import structural_equal
from gputune.ir.graph import bind_params, constants_of, lift_constants
from gputune.ir.nodes import IRModule
from gputune.script import ir as I
from gputune.script import relax as R
from gputune.script import tir as T

TARGET = "llvm -num-cores=1"


@I.ir_module
class Model:
    @T.prim_func
    def scale(A: T.Buffer((8,), "float32"), W: T.Buffer((8,), "float32"),
              B: T.Buffer((8,), "float32")):  # fmt: skip
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = A[vi] * W[vi]

    @R.function
    def main(x: R.Tensor((8,), "float32"), w: R.Tensor((8,), "float32")):
        y = R.call_tir(scale, (x, w), R.Tensor((8,)))
        z = R.call_tir(scale, (y, R.const([1, 2, 3, 4, 5, 6, 7, 8], "float32")), R.Tensor((8,)))
        return (z, R.const(True, "bool"), R.const(3, "int8"))


W = np.linspace(-2, 2, 8, dtype=np.float32)
X = np.arange(8, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bound = relax.transform.BindParams("main", {"w": W})(Model)
    return relax.export(relax.build(bound, TARGET), tmp_path / "model")


def test_a_model_comes_back(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["about.json", "constants.npz", "module.py"]
    ex = relax.load(folder)
    assert structural_equal(ex.mod, relax.transform.BindParams("main", {"w": W})(Model))
    assert ex.target.num_cores == 1
    z, yes, three = relax.VirtualMachine(ex)["main"](X)
    np.testing.assert_array_equal(z.numpy(), X * W * np.arange(1, 9, dtype=np.float32))
    assert yes.dtype == "bool"
    assert yes.numpy()
    assert three.numpy() == 3
    assert relax.export(ex, folder) == folder  # over itself
    relax.load(folder)


@pytest.mark.parametrize("seed", range(20))
def test_lifted_constants_come_back(seed: int) -> None:
    mod = random_module(seed)
    for func in mod.graphs.values():
        found = constants_of(func)
        lifted = lift_constants(func, found)
        assert not constants_of(lifted)
        check(lifted)
        back = dict(zip(lifted.params[len(func.params) :], found))
        assert structural_equal(bind_params(lifted, back), func)


def about(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "about.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return edit


def constants(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        with np.load(folder / "constants.npz") as archive:
            data = dict(archive)
        change(data)
        np.savez(folder / "constants.npz", **data)

    return edit


def script(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "module.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, X)
    return file.getvalue()


def key_of_bool(data: dict[str, Any]) -> str:
    return next(k for k, v in data.items() if v.tolist() == [1])


TAMPERED: dict[str, tuple[Callable[[Path], Any], type[GputuneError], str]] = {
    "no file": (lambda f: (f / "about.json").unlink(), UserError, "cannot read"),
    "no script": (lambda f: (f / "module.py").unlink(), UserError, "cannot read"),
    "no constants": (lambda f: (f / "constants.npz").unlink(), UserError, "cannot read"),
    "no json": (lambda f: (f / "about.json").write_text("{"), RecordError, "not JSON"),
    "deep": (lambda f: (f / "about.json").write_text("[" * 100_000), RecordError, "about.json"),
    "format": (about(lambda a: a.update(format="other")), RecordError, "not an executable"),
    "functions": (about(lambda a: a.update(constants={})), RecordError, "not those of module.py"),
    "too many": (
        about(lambda a: a["constants"].update(main=["0"] * 9)), RecordError, "constants of 'main'"),
    "odd key": (
        about(lambda a: a["constants"]["main"].__setitem__(0, 7)), RecordError, "no tensor"),
    "no key": (about(lambda a: a["constants"]["main"].__setitem__(0, "z")), RecordError, "'z'"),
    "target": (about(lambda a: a.update(target="llvm")), RecordError, "not one of kind llvm"),
    "target's kind": (about(lambda a: a["target"].update(kind="cuda")), RecordError, "kind llvm"),
    "no program": (lambda f: (f / "module.py").write_text("x = 1"), RecordError, "not a program"),
    "no text": (lambda f: (f / "module.py").write_bytes(b"\xff"), RecordError, "not UTF-8"),
    "no graph": (
        lambda f: (f / "module.py").write_text("@I.ir_module\nclass M:\n    pass\n"),
        RecordError, "no module with graph functions"),
    "call": (script("cls.scale", "cls.scales"), RecordError, "no such function"),
    "no archive": (
        lambda f: (f / "constants.npz").write_bytes(b"text"), RecordError, "no archive of arrays"),
    "one array": (
        lambda f: (f / "constants.npz").write_bytes(one_array()), RecordError, "but one array"),
    "size": (constants(lambda d: d.update({"0": d["0"][:-1]})), RecordError, "not 32 bytes"),
    "dtype": (constants(lambda d: d.update({"0": X})), RecordError, "elements of float32"),
    "objects": (
        constants(lambda d: d.update({"0": np.array([None])})), RecordError, "constants.npz"),
    "bool": (
        constants(lambda d: d.update({key_of_bool(d): np.array([2], np.uint8)})),
        RecordError, "0 or 1 in memory"),
    "stray access": (
        script("A[vi] * W[vi]", "A[vi + 8] * W[vi]"), RecordError, "reads A[vi + 8]"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_a_folder_that_is_not_what_it_says_is_refused(name: str, folder: Path) -> None:
    edit, error, message = TAMPERED[name]
    edit(folder)
    with pytest.raises(error) as refused:
        relax.load(folder)
    assert message in str(refused.value)


def test_a_target_of_another_machine_becomes_this_one(folder: Path) -> None:
    about(lambda a: a["target"].update(mattr="+no-such-feature"))(folder)
    assert "no-such-feature" not in str(relax.load(folder).target.export())


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ex = relax.build(IRModule(Model.functions, (), Model.graphs), TARGET)
    with pytest.raises(UserError, match="cannot export to"):
        relax.export(ex, tmp_path / "file")
    with pytest.raises(UserError, match="expected the path of a folder"):
        relax.export(ex, "")
    with pytest.raises(UserError, match="expected the path of a folder"):
        relax.load(3)  # type: ignore[arg-type]
    assert gt.relax.load is relax.load
