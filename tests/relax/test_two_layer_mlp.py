"""Does the tutorial's two-layer MLP run end to end, with nothing but the import lines changed?

A module of a tensor function and external functions is bound to its weights, run, and timed; the
tensor function is taken out, tuned and put back; the prediction stays. The weights are random.
"""

# ruff: noqa: F821, UP037 (the tutorial's `T.Buffer[shape, "float32"]` and `Tensor` are no types)
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gputune.ir.module import IRModule

import gputune as tvm
from gputune import meta_schedule as ms
from gputune import relax
from gputune.script import from_source
from gputune.script import relax as R
from gputune.script import tir as T

CLASS_NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
               "Bag", "Ankle boot"]  # fmt: skip


@tvm.script.ir_module
class MyModuleMixture:
    @T.prim_func
    def linear0(X: T.Buffer[(1, 784), "float32"],
                W: T.Buffer[(128, 784), "float32"],
                B: T.Buffer[(128,), "float32"],
                Z: T.Buffer[(1, 128), "float32"]):  # fmt: skip
        T.func_attr({"global_symbol": "linear0", "tir.noalias": True})
        Y = T.alloc_buffer((1, 128), "float32")
        for i, j, k in T.grid(1, 128, 784):
            with T.block("Y"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    Y[vi, vj] = T.float32(0)
                Y[vi, vj] = Y[vi, vj] + X[vi, vk] * W[vj, vk]

        for i, j in T.grid(1, 128):
            with T.block("Z"):
                vi, vj = T.axis.remap("SS", [i, j])
                Z[vi, vj] = Y[vi, vj] + B[vj]

    @R.function
    def main(x: Tensor((1, 784), "float32"),
             w0: Tensor((128, 784), "float32"),
             b0: Tensor((128,), "float32"),
             w1: Tensor((10, 128), "float32"),
             b1: Tensor((10,), "float32")):  # fmt: skip
        with R.dataflow():
            lv0 = R.call_tir(linear0, (x, w0, b0), (1, 128), dtype="float32")
            lv1 = R.call_tir("env.relu", (lv0,), (1, 128), dtype="float32")
            out = R.call_tir("env.linear", (lv1, w1, b1), (1, 10), dtype="float32")
            R.output(out)
        return out


def with_torch() -> None:
    """The external functions as the tutorial has them."""
    torch = pytest.importorskip("torch")

    @tvm.register_func("env.linear", override=True)
    def torch_linear(x: tvm.nd.NDArray, w: tvm.nd.NDArray, b: tvm.nd.NDArray, out: tvm.nd.NDArray):
        x_torch = torch.from_dlpack(x)
        w_torch = torch.from_dlpack(w)
        b_torch = torch.from_dlpack(b)
        out_torch = torch.from_dlpack(out)
        torch.mm(x_torch, w_torch.T, out=out_torch)
        torch.add(out_torch, b_torch, out=out_torch)

    @tvm.register_func("env.relu", override=True)
    def lnumpy_relu(x: tvm.nd.NDArray, out: tvm.nd.NDArray):
        x_torch = torch.from_dlpack(x)
        out_torch = torch.from_dlpack(out)
        torch.maximum(x_torch, torch.Tensor([0.0]), out=out_torch)


def with_numpy() -> None:
    @tvm.register_func("env.linear", override=True)
    def numpy_linear(x: tvm.nd.NDArray, w: tvm.nd.NDArray, b: tvm.nd.NDArray, out: tvm.nd.NDArray):
        np.add(np.from_dlpack(x) @ np.from_dlpack(w).T, np.from_dlpack(b), out=np.asarray(out))

    @tvm.register_func("env.relu", override=True)
    def numpy_relu(x: tvm.nd.NDArray, out: tvm.nd.NDArray):
        np.maximum(np.from_dlpack(x), 0, out=np.asarray(out))


@pytest.fixture(params=[with_numpy, with_torch], ids=["numpy", "torch"])
def environment(request: pytest.FixtureRequest) -> Iterator[None]:
    make: Callable[[], None] = request.param
    make()
    yield
    for name in ("env.linear", "env.relu"):
        tvm.runtime.external.remove_global_func(name)


class Network:
    """Weights, an image, and what NumPy makes of them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        shapes = {"w0": (128, 784), "b0": (128,), "w1": (10, 128), "b1": (10,)}
        params = {k: rng.standard_normal(s, np.float32) / 8 for k, s in shapes.items()}
        self.img = rng.random((1, 28, 28), np.float32)
        self.data_nd = tvm.nd.array(self.img.reshape(1, 784))
        self.nd_params = {k: tvm.nd.array(v) for k, v in params.items()}
        hidden = np.maximum(self.img.reshape(1, 784) @ params["w0"].T + params["b0"], 0)
        self.expected = hidden @ params["w1"].T + params["b1"]

    def predicted(self, mod: Any) -> tuple[str, float]:
        """Build, run and time, as the tutorial does: the class, and seconds."""
        ex = relax.vm.build(mod, target="llvm")
        vm = relax.VirtualMachine(ex, tvm.cpu())
        nd_res = vm["main"](self.data_nd)
        np.testing.assert_allclose(nd_res.numpy(), self.expected, rtol=1e-4, atol=1e-4)
        ftimer = vm.module.time_evaluator("main", tvm.cpu(), number=20)
        pred_kind = np.argmax(nd_res.numpy(), axis=1)
        return CLASS_NAMES[pred_kind[0]], ftimer(self.data_nd).mean


def test_the_tutorial(environment: None, tmp_path: Path) -> None:
    net = Network()
    bound = relax.transform.BindParams("main", net.nd_params)(MyModuleMixture)
    before, seconds = net.predicted(bound)
    assert before == CLASS_NAMES[net.expected.argmax()]
    assert seconds > 0

    linear0 = MyModuleMixture["linear0"]
    mod_linear = tvm.IRModule.from_expr(linear0.with_attr("global_symbol", "main"))
    assert list(mod_linear.functions) == ["main"]
    sch_tuned_linear = ms.tune_tir(
        mod=mod_linear,
        target="llvm --num-cores=1",
        config=ms.TuneConfig(max_trials_global=4, num_trials_per_iter=4),
        work_dir=str(tmp_path),
        task_name="main",
        seed=1,
    )

    bound2 = relax.transform.BindParams("main", net.nd_params)(MyModuleMixture)
    new_func = sch_tuned_linear.mod["main"].with_attr("global_symbol", "linear0")
    gv = bound2.get_global_var("linear0")
    bound2.update_func(gv, new_func)
    assert bound2["linear0"] is new_func
    assert not tvm.structural_equal(bound2, bound)
    assert MyModuleMixture["linear0"] is bound["linear0"]  # only the one module has changed

    after, seconds = net.predicted(bound2)
    assert after == before
    assert seconds > 0


@pytest.mark.parametrize("trials", [0, 2])
def test_a_mixed_module_is_tuned_in_place(environment: None, tmp_path: Path, trials: int) -> None:
    """Named for a bug: beside graphs, the record of an only tensor function was not found."""
    net = Network()
    bound = relax.transform.BindParams("main", net.nd_params)(MyModuleMixture)
    tuned = ms.tune_tir(
        bound, "llvm --num-cores=1", tmp_path, trials, num_trials_per_iter=2, seed=1
    )
    assert list(tuned.mod.graphs) == ["main"]
    assert not tvm.structural_equal(tuned.mod["linear0"], MyModuleMixture["linear0"])
    assert net.predicted(tuned.mod)[0] == CLASS_NAMES[net.expected.argmax()]


def test_the_text_of_the_module_with_its_weights(environment: None) -> None:
    net = Network()
    bound = relax.transform.BindParams("main", net.nd_params)(MyModuleMixture)
    text = bound.script()
    again = from_source(text)
    assert isinstance(again, IRModule)
    assert tvm.structural_equal(again, bound)
    assert net.predicted(again)[0] == CLASS_NAMES[net.expected.argmax()]
    short = bound.script(show_data=False).splitlines()
    assert max(map(len, short)) < 400
    lv0 = next(line.strip() for line in short if "lv0 =" in line)
    assert lv0 == (
        "lv0 = R.call_tir(cls.linear0, (x, const, const_1), "
        'out_sinfo=R.Tensor((1, 128), dtype="float32"))'
    )


def test_tasks_of_the_module() -> None:
    (task,) = ms.extract_tasks(MyModuleMixture, "llvm", {"w0": 1})
    assert (task.task_name, task.weight) == ("linear0", 1)
    assert list(task.dispatched[0].functions) == ["main"]
