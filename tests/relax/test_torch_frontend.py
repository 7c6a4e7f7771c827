"""Do models of torch compute the same here? (Skipped where torch is not installed.)"""

# ruff: noqa: E402 (what is imported after torch is needed only where torch is there)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch, which is not installed")

from torch import nn
from torch.nn import functional as F
from torch_models import models

from gputune import relax
from gputune.errors import BuildError, UserError
from gputune.ir.check import check
from gputune.ir.equal import structural_equal
from gputune.ir.graph import calls
from gputune.ir.nodes import IRModule
from gputune.relax.frontend.torch import from_exported_program, params_of
from gputune.relax.transform import (
    BindParams,
    DecomposeOpsForInference,
    FoldConstant,
    FuseOps,
    LegalizeOps,
)
from gputune.script import from_source

TARGET = "llvm -num-cores=1"
MODELS = models()


def flat(x: Any) -> list[Any]:
    if isinstance(x, (tuple, list)):
        return [y for part in x for y in flat(part)]
    return [x]


def run(mod: IRModule, args: Any) -> list[np.ndarray[Any, Any]]:
    legal = LegalizeOps()(mod)
    check(legal)
    out = relax.VirtualMachine(relax.build(legal, TARGET))["main"](*[x.numpy() for x in flat(args)])
    return [x.numpy() for x in flat(out)]


def exported(model: Any, args: Any) -> Any:
    return torch.export.export(model, args)


def assert_as_torch(model: Any, args: Any, change: Callable[[IRModule], IRModule] = lambda m: m,
                    tolerance: float = 1e-4) -> IRModule:  # fmt: skip
    with torch.no_grad():
        wanted = [x.numpy() for x in flat(model(*args))]
    mod = from_exported_program(exported(model, args))
    check(mod)
    found = run(change(mod), args)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    return mod


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_as_torch_has_it(name: str) -> None:
    mod = assert_as_torch(*MODELS[name])
    assert structural_equal(from_source(mod.script()), mod)


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "bert"])
def test_a_model_whose_constants_are_folded_and_calls_fused(name: str) -> None:
    def fold(mod: IRModule) -> IRModule:
        simple = FoldConstant()(DecomposeOpsForInference()(mod))
        left = {c.callee.name for c in calls(simple.graphs["main"])}
        assert not left & {"nn.batch_norm", "multiply" if name == "resnet" else ""}
        legal = LegalizeOps()(simple)
        fused = FuseOps()(legal)
        check(fused)
        assert len(list(calls(fused.graphs["main"]))) < len(list(calls(legal.graphs["main"])))
        return fused

    assert_as_torch(*MODELS[name], fold)


def test_operators_stand_for_the_modules() -> None:
    mod = from_exported_program(exported(*MODELS["mlp"]))
    names = [c.callee.name for c in calls(mod.graphs["main"])]
    assert names == ["reshape", "linear", "nn.relu", "linear", "nn.softmax"]


def test_weights_as_parameters() -> None:
    model, args = MODELS["resnet"]
    program = exported(model, args)
    mod = from_exported_program(program, keep_params_as_input=True, unwrap_unit_return_tuple=True)
    main = mod.graphs["main"]
    assert dict(main.attrs)["num_input"] == 1
    params = params_of(program)
    assert list(params) == [p.name for p in main.params[1:]]
    bound = BindParams("main", params)(mod)
    with torch.no_grad():
        wanted = model(*args).numpy()
    np.testing.assert_allclose(run(bound, args)[0], wanted, rtol=1e-4, atol=1e-4)
    data = [args[0].numpy(), *params.values()]
    again = relax.VirtualMachine(relax.build(LegalizeOps()(mod), TARGET))["main"](*data)
    np.testing.assert_allclose(again.numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_shared_weights_are_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
            self.head.weight = self.words.weight

        def forward(self, tokens: Any) -> Any:
            return self.head(self.words(tokens))

    mod = assert_as_torch(Tied().eval(), (torch.tensor([[1, 5, 10]]),))
    take, linear = calls(mod.graphs["main"])
    assert take.args[0] is linear.args[1]


class Call(nn.Module):
    """A model of one expression."""

    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        self.f = f

    def forward(self, *args: Any) -> Any:
        return self.f(*args)


def r(*shape: int, dtype: Any = None) -> Any:
    torch.manual_seed(len(shape) + sum(shape))
    return torch.randn(*shape) if dtype is None else torch.randint(-4, 5, shape, dtype=dtype)


INT = torch.int64
EXPRESSIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "int and float": (lambda a, b: a + b * 2 - 1.5, (r(3, 1), r(4, dtype=INT))),
    "alpha": (lambda a, b: torch.add(a, b, alpha=3) - torch.sub(a, b, alpha=0.5), (r(3), r(3))),
    "rsub": (lambda a: 1 - a, (r(3),)),
    "divide": (lambda a, b: a / 2 + 2 / b, (r(3), r(3).abs() + 1)),
    "int divide": (lambda a, b: (a / 3, a // 3, a % 5, b // 0.7), (r(9, dtype=INT), r(9))),
    "powers": (lambda a: (a**2, a**3, a**0.5, a**-0.5, a**1.7, 2.0**a), (r(5).abs() + 0.1,)),
    "compare": (lambda a, b: ((a > 0) & (b < 1), (a == b) | ~(a != 0), a >= b, a <= 2),
                (r(4), r(4, dtype=INT))),
    "where": (lambda a, b: (torch.where(a > 0, a, b), torch.where(a > 0, a, 0.0),
                            a.masked_fill(a > 0.5, float("-inf"))), (r(3, 4), r(4))),
    "clamp": (lambda a, b: (a.clamp(-0.5, 0.5), a.clamp(max=0), torch.clamp(a, b, b + 1),
                            torch.maximum(a, b)), (r(7), r(7))),
    "activations": (lambda a: (F.leaky_relu(a, 0.2), F.hardtanh(a), F.hardsigmoid(a), F.elu(a),
                               F.softplus(a), F.mish(a), F.gelu(a), a.erf(), a.sigmoid()), (r(9),)),
    "round": (lambda a: (a.round(), a.floor(), a.abs().sqrt(), a.neg(), a.reciprocal(), a.square(),
                         a.sign()), (r(9) * 3,)),
    "casts": (lambda a: (a.to(torch.int32), a.long(), a.bool(), a.half().float(), a.double()),
              (r(9) * 3,)),
    "products": (lambda a, b: (a @ b, torch.bmm(a, b), torch.einsum("bij,bjk->bik", a, b),
                               a[0] @ b[0, :, 0], a[0, 0] @ b[0, :, 0]), (r(2, 3, 4), r(2, 4, 5))),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2), (r(5), r(3, 4), r(4, 5))),
    "conv1d": (lambda x, w: F.conv1d(x, w, padding="same", dilation=2), (r(2, 3, 9), r(4, 3, 3))),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=(1, 2), groups=2),
               (r(4, 9, 8), r(6, 2, 3, 3), r(6))),
    "pools": (lambda x: (F.max_pool2d(x, 3, 2, ceil_mode=True), F.avg_pool2d(x, 2, ceil_mode=True),
                         F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
                         F.adaptive_avg_pool2d(x, (3, 2)), F.adaptive_avg_pool2d(x, (None, 1))),
              (r(2, 3, 7, 8),)),
    "norms": (lambda x, w, b: (F.layer_norm(x, (6,)), F.layer_norm(x, (6,), w),
                               F.rms_norm(x, (6,), w), F.group_norm(x, 2, b, b + 1),
                               F.layer_norm(x, (4, 6), eps=0.1), F.instance_norm(x)),
              (r(2, 4, 6), r(6), r(4))),
    "softmax": (lambda x: (F.softmax(x, 1), F.log_softmax(x, -1), F.softmax(x.double(), 0)),
                (r(3, 4),)),
    "reductions": (lambda x: (x.sum(), x.sum(1), x.mean((0, -1), keepdim=True), x.amax(1), x.max(),
                              x.var(1), x.std(-1, unbiased=False), x.var(), x.norm(dim=1)),
                   (r(3, 4, 5),)),
    "extremes": (lambda x: (*x.max(1), *x.min(0, keepdim=True), x.argmax(), x.argmax(-1, True)),
                 (r(3, 4),)),
    "int sums": (lambda x, b: (x.sum(0), b.sum(1), x.float().mean()),
                 (r(3, 4, dtype=INT), r(3, 4) > 0)),
    "shapes": (lambda x: (x.view(-1), x.reshape(4, 6), x.flatten(1), x.unflatten(1, (3, 2)),
                          x.unsqueeze(0).squeeze(), x.transpose(0, 1), x.permute(1, 0), x.t(), x.T),
               (r(4, 6),)),
    "repeats": (lambda x: (x.expand(5, 2, 3), x.repeat(2, 1, 3), x[:, None].expand(-1, 4, -1),
                           x.repeat_interleave(2, 0)), (r(2, 3),)),
    "parts": (lambda x: (*x.split(3, 1), *x.chunk(3), *x.unbind(0)[:2], *x.split([1, 6], 1),
                         torch.stack([x, x], 1), torch.cat([x, x.long()], 0)), (r(5, 7),)),
    "slices": (lambda x: (x[1:4, ::2], x[:, -1], x[-2:], x[..., 3:100], x.narrow(0, 1, 2), x[2]),
               (r(5, 7),)),
    "index": (lambda x, i: (x[i], x[:, i], x.index_select(1, i.abs()), F.embedding(i.abs(), x)),
              (r(6, 6), torch.tensor([0, -2, 5]))),
    "padding": (lambda x: (F.pad(x, (1, 2)), F.pad(x, (1, -1, 0, 2), value=3.0)), (r(3, 4),)),
    "made": (lambda x: (torch.zeros(2, 3) + x, torch.full_like(x, 2.5), torch.arange(1, 7, 2) + x,
                        torch.ones(3, 3).triu(1), torch.tril(x.expand(3, 3), -1),
                        x.new_zeros(2), torch.arange(3.0), x + torch.tensor([1.0, 2.0, 3.0])),
             (r(3),)),
    "attention": (lambda q, k, v: (F.scaled_dot_product_attention(q, k, v, is_causal=True),
                                   F.scaled_dot_product_attention(q, k[:, :2], v[:, :2],
                                                                  enable_gqa=True, scale=0.2)),
                  (r(1, 4, 5, 3), r(1, 4, 5, 3), r(1, 4, 5, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_is_as_torch_has_it(name: str) -> None:
    f, args = EXPRESSIONS[name]
    assert_as_torch(Call(f).eval(), args)


# ----------------------------------------------------------------------------- what is refused
def test_all_operators_that_are_missing_are_named_with_their_places() -> None:
    class Inner(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.cumsum(x, 0)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.ReLU(), Inner())

        def forward(self, x: Any) -> Any:
            y = self.inner(x)
            return F.dropout(torch.sort(y)[0], 0.5, training=True) + y

    with pytest.raises(BuildError) as e:
        from_exported_program(exported(Outer(), (r(4),)))
    text = str(e.value)
    assert "operators cannot be translated" in text
    assert "aten.cumsum.default at node cumsum (in inner.1, Inner)" in text
    assert "aten.sort" in text


def test_what_keeps_state_is_named() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, x: Any) -> Any:
            self.seen.add_(x)
            return self.seen * 2

    with pytest.raises(BuildError, match="buffer mutation of 'seen'"):
        from_exported_program(exported(Counter(), (r(3),)))


def test_a_batch_norm_in_training_mode() -> None:
    model = nn.BatchNorm2d(3).train()
    with pytest.raises(BuildError, match="eval"):
        from_exported_program(exported(model, (r(2, 3, 4, 4),)))


def test_shapes_have_to_be_constant() -> None:
    rows = torch.export.Dim("rows")
    program = torch.export.export(nn.Linear(4, 3), (r(5, 4),), dynamic_shapes={"input": {0: rows}})
    with pytest.raises(UserError, match="which is not constant"):
        from_exported_program(program)


def test_only_exported_programs() -> None:
    with pytest.raises(UserError, match="expected an ExportedProgram, found Linear"):
        from_exported_program(nn.Linear(2, 2))
