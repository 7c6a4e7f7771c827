"""What does the frontend of torch say where torch is not installed?"""

from __future__ import annotations

import sys

import pytest

from gputune.errors import UserError
from gputune.relax.frontend.torch import from_exported_program, params_of


@pytest.mark.parametrize("function", [from_exported_program, params_of])
def test_torch_is_missing(function: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "torch.export", None)
    with pytest.raises(UserError, match="needs torch, which is not installed") as e:
        function(None)  # type: ignore[operator]  # one of two functions
    assert e.value.hint == "pip install torch"
