from __future__ import annotations

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest

from gputune.errors import RunError
from gputune.runtime.devices import Device, cpu, cuda
from gputune.runtime.foreign import view
from gputune.runtime.ndarray import NDArray, array, empty


class OnlyDLPack:
    """An array of another library: DLPack is all it has."""

    def __init__(self, data, versioned=True, device=(1, 0)):
        self.data, self.versioned, self.device = data, versioned, device

    def __dlpack__(self, **options):
        if not self.versioned:
            if options:
                raise TypeError("unexpected max_version")
            return self.data.__dlpack__()
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


class OnlyInterface:
    def __init__(self, data):
        self.data = data
        self.__array_interface__ = data.__array_interface__


def test_array_copies_and_aligns():
    x = np.arange(12, dtype="float32").reshape(3, 4)
    for source in (x, OnlyDLPack(x), OnlyInterface(x), array(x), x.tolist()):
        y = array(source)
        assert y.shape == (3, 4)
        assert y.ndim == 2
        assert len(y) == 3
        assert y.dtype == ("float64" if isinstance(source, list) else "float32")
        assert y.data.ctypes.data % 64 == 0
        assert np.array_equal(y.numpy(), x)
        y.data[0, 0] = 99
        assert x[0, 0] == 0


def test_empty():
    y = empty((2, 3), dtype="bfloat16", device=cpu())
    assert (y.shape, y.dtype, y.device) == ((2, 3), "bfloat16", cpu(0))
    assert empty(5).dtype == "float32"
    assert empty((0, 4)).shape == (0, 4)
    assert empty(()).shape == ()


def test_exports_share_memory():
    y = array(np.zeros(4, "float32"))
    np.asarray(y)[0] = 1
    np.from_dlpack(y)[1] = 2
    np.asarray(OnlyInterface(y))[2] = 3
    assert y.numpy().tolist() == [1, 2, 3, 0]
    assert np.asarray(y, dtype="float64").dtype == np.float64
    taken = np.array(y, copy=True)
    taken[0] = 9
    assert y.asnumpy()[0] == 1
    with pytest.raises(ValueError, match="uncopied"):
        y.__array__("float64", copy=False)
    assert y.__dlpack_device__() == (1, 0)


def test_copyto_and_copyfrom():
    x = array(np.arange(4, dtype="float32"))
    y = empty(4)
    assert x.copyto(y) is y
    assert np.array_equal(y.numpy(), x.numpy())
    z = np.zeros(4, "float32")
    x.copyto(z)
    assert z[3] == 3
    assert isinstance(x.copyto(cpu()), NDArray)
    y.copyfrom(np.ones(4))
    assert y.numpy().tolist() == [1, 1, 1, 1]
    with pytest.raises(RunError, match=r"expected \(4,\) float32, found \(3,\) float32"):
        x.copyto(empty(3))
    with pytest.raises(RunError, match="expected shape"):
        x.copyfrom(np.ones(3))
    z.flags.writeable = False
    with pytest.raises(RunError, match="read-only"):
        x.copyto(z)


def test_refusals():
    with pytest.raises(RunError, match=r"cuda\(0\) is not available"):
        empty((2,), device=cuda(0))
    with pytest.raises(RunError, match=r"cpu\(1\) is not available"):
        array(np.zeros(2), cpu(1))
    with pytest.raises(RunError, match="expected a device such as"):
        array(np.zeros(2), "gpu")
    with pytest.raises(RunError, match="unknown dtype 'float33'"):
        empty((2,), "float33")
    with pytest.raises(RunError, match="cannot be negative"):
        empty((2, -1))
    with pytest.raises(RunError, match="complex128"):
        array(np.zeros(2, complex))
    with pytest.raises(RunError, match="expected an array, found dict"):
        array({})
    with pytest.raises(RunError, match="whole number from 0"):
        Device("cpu", -1)


def test_devices():
    assert str(cuda(1)) == "cuda(1)"
    assert cpu().exist
    cpu().sync()
    assert not cuda().exist
    with pytest.raises(RunError, match="there is no device"):
        cuda().sync()


@pytest.mark.parametrize("versioned", [True, False])
def test_view_of_dlpack_is_no_copy_and_keeps_it_alive(versioned):
    owner = np.arange(24, dtype="int16")
    base = owner.reshape(4, 6)
    x = OnlyDLPack(base[:, ::2], versioned)
    v = view(x, "x")
    assert v.dtype == np.int16
    assert np.array_equal(v, base[:, ::2])
    assert v.strides == (12, 4)
    v[1, 1] = -5
    assert base[1, 2] == -5
    alive = weakref.ref(owner)
    del x, base, owner
    gc.collect()
    assert alive() is not None
    assert v[1, 1] == -5
    del v
    gc.collect()
    assert alive() is None


def test_view_of_read_only_dlpack_is_read_only():
    base = np.arange(3.0)
    base.flags.writeable = False
    v = view(OnlyDLPack(base), "x")
    assert not v.flags.writeable
    with pytest.raises(RunError, match="does not export its memory"):
        view(OnlyDLPack(base, versioned=False), "x")


@pytest.mark.parametrize("name", ["bool", "uint8", "int64", "float16", "float64"])
def test_view_of_dlpack_dtypes(name):
    assert view(OnlyDLPack(np.zeros(2, name)), "x").dtype == np.dtype(name)


def test_view_of_bfloat16_dlpack():
    """NumPy cannot export bfloat16; a capsule of another library is imitated by patching the type
    code in a capsule of uint16."""
    from gputune.runtime import foreign

    base = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    capsule = base.view(np.uint16).__dlpack__()
    foreign.DLTensor.from_address(foreign._pointer(capsule, b"dltensor")).code = 4

    class Fake:
        def __dlpack__(self, **options):
            return capsule

        def __dlpack_device__(self):
            return (1, 0)

    v = view(Fake(), "x")
    assert v.dtype == ml_dtypes.bfloat16
    assert v.tolist() == [1.5, -2.0]


def test_views_of_what_is_not_there():
    with pytest.raises(RunError, match="on cuda: this kernel runs on the cpu"):
        view(OnlyDLPack(np.zeros(2), device=(2, 0)), "f: argument 'A'")
    with pytest.raises(RunError, match="device type 77"):
        view(OnlyDLPack(np.zeros(2), device=(77, 0)), "x")

    class Cupy:
        __cuda_array_interface__ = {}  # noqa: RUF012 - a stand-in, never changed

    with pytest.raises(RunError, match="found a Cupy on cuda"):
        view(Cupy(), "x")
    with pytest.raises(RunError, match="found the class ndarray"):
        view(np.ndarray, "x")
    with pytest.raises(RunError, match="found int"):
        view(3, "x")

    class Liar:
        def __dlpack__(self, **options):
            return object()

    with pytest.raises(RunError, match="gave no DLPack capsule"):
        view(Liar(), "x")
    with pytest.raises(RunError, match="code5:128x1 is not supported"):
        view(OnlyDLPack(np.zeros(2, complex)), "x")
