from __future__ import annotations

import contextvars
import json
import pickle
import subprocess
import sys

import pytest

from gputune.errors import TargetError
from gputune.target import Target, host, tags, target


def test_llvm_takes_this_machine():
    t = Target("llvm")
    assert (t.kind, t.mcpu, t.mattr) == ("llvm", host.cpu_name(), host.feature_string())
    assert t.num_cores == host.usable_cores() >= 1
    assert t.vector_bytes in (16, 32, 64)
    assert t.num_vector_registers in (16, 32)
    assert "+" in t.mattr


@pytest.mark.parametrize(
    "spec",
    [
        "llvm --num-cores=4",
        "llvm -num-cores 4",
        "llvm -num-cores=4",
        "llvm --num-cores 4",
        "llvm -num_cores=4",
        {"kind": "llvm", "num-cores": 4},
        {"kind": "llvm", "num-cores": "4", "keys": ["cpu"], "tag": ""},
    ],
)
def test_spellings_mean_the_same(spec):
    assert Target(spec) == Target("llvm -num-cores 4")
    assert hash(Target(spec)) == hash(Target("llvm -num-cores 4"))
    assert Target(spec).num_cores == 4
    assert Target(spec) != Target("llvm -num-cores 3")


def test_named_processor_brings_its_own_features():
    t = Target("llvm -num-cores 4 -mcpu=x86-64 -mattr=+avx2")
    assert (t.mcpu, t.mattr, t.num_cores) == ("x86-64", "+avx2", 4)


@pytest.mark.skipif(not host.triple().startswith("x86_64"), reason="asks for x86 processors")
@pytest.mark.parametrize(
    ("spec", "width", "registers"),
    [
        ("llvm -mcpu=x86-64", 16, 16),
        ("llvm -mcpu=x86-64-v3", 32, 16),
        ("llvm -mcpu=cascadelake", 64, 32),
        ("llvm -mcpu=x86-64 -mattr=+avx2", 32, 16),
    ],
)
def test_vector_registers(spec, width, registers):
    t = Target(spec)
    assert (t.vector_bytes, t.num_vector_registers) == (width, registers)


@pytest.mark.skipif(not host.triple().startswith("x86_64"), reason="asks for x86 features")
def test_features_change_those_of_this_machine():
    t = Target("llvm -mattr=-avx512f,-avx2")
    assert t.mattr == host.feature_string() + ",-avx512f,-avx2"
    assert t.vector_bytes <= 32


SPECS = [
    "llvm",
    "llvm --num-cores=1",
    "llvm -num-cores 4 -mcpu=x86-64 -mattr=+avx2",
    "llvm -mattr=-avx2",
    "cuda",
    "cuda -arch=sm_90a",
    {"kind": "cuda", "arch": "sm_80", "max_threads_per_block": 1024},
]


@pytest.mark.parametrize("spec", SPECS)
def test_export_and_str_round_trip(spec):
    t = Target(spec)
    exported = t.export()
    assert list(exported) == sorted(exported)
    assert json.loads(json.dumps(exported)) == exported
    for same in (exported, str(t), t):
        assert Target(same) == t
        assert hash(Target(same)) == hash(t)
    assert Target(exported, trusted=True) == t
    assert pickle.loads(pickle.dumps(t)) == t
    assert repr(t) == f'Target("{t}")'


def test_str_is_short():
    assert str(Target("llvm -num-cores 3")) == "llvm -num-cores=3"
    assert str(Target("cuda -arch sm_90a")) == "cuda -arch=sm_90a"


def test_features_of_another_machine_of_this_name_are_kept_whole():
    exported = Target("llvm").export()
    exported["mattr"] = ",".join("-" + name for name in host.features())
    t = Target(exported)
    assert t.mattr == exported["mattr"]
    assert Target(str(t)) == t != Target("llvm")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lvm", ["unknown target kind 'lvm'", "did you mean llvm?"]),
        ("rocm", ["unknown target kind 'rocm'", "known are: auto, cuda, hexagon, llvm"]),
        ("hexagon -vtcm-capacity=no", ["'vtcm-capacity' of hexagon", "'no'"]),
        ("llvm --num-core=1", ["no option 'num-core'", "did you mean num-cores?"]),
        ("cuda -mcpu=x", ["'cuda' has no option 'mcpu'"]),
        ("auto -num-cores=2", ["'auto' takes no options"]),
        ("llvm -num-cores", ["-num-cores needs a value"]),
        ("llvm -num-cores=0", ["'num-cores'", "positive whole number", "'0'"]),
        ("llvm -num-cores=two", ["'num-cores'", "'two'"]),
        ({"kind": "llvm", "num-cores": True}, ["'num-cores'", "True"]),
        ({"kind": "llvm", "num-cores": 2.5}, ["'num-cores'", "2.5"]),
        ("llvm -num-cores=1 -num-cores=2", ["given twice"]),
        ("llvm -mcpu=x86-64-v33", ["LLVM knows no processor 'x86-64-v33'", "x86-64-v3"]),
        ("llvm -mcpu=help", ["LLVM knows no processor 'help'"]),
        ({"kind": "llvm", "mcpu": 3}, ["'mcpu'", "3"]),
        ("llvm -mattr=avx2", ["'mattr'", "starts with + or -"]),
        ("llvm -mattr=+avx22", ["LLVM knows no feature 'avx22'"]),
        ({"kind": "llvm", "mattr": 7}, ["'mattr'", "7"]),
        ("llvm 4", ["expected an option", "'4'"]),
        ("llvm 'x", ["cannot be read"]),
        ("", ["empty"]),
        ("cuda -arch=90", ["'arch'", "sm_90"]),
        ("cuda -max-threads-per-block=-1", ["'max-threads-per-block'", "'-1'"]),
        ({}, ["needs a kind"]),
        ({"kind": 4}, ["kind of a target is a string"]),
        (4, ["a string, a dict or a Target, not int"]),
        (None, ["not NoneType"]),
    ],
)
def test_refusals_name_what_is_wrong(spec, words):
    with pytest.raises(TargetError) as e:
        Target(spec)
    for word in words:
        assert word in str(e.value)


def test_immutable():
    with pytest.raises(AttributeError, match="cannot be changed"):
        Target("llvm").num_cores = 3


def test_current_nests_and_is_per_context():
    assert Target.current() is None
    with pytest.raises(TargetError, match="no current target"):
        Target.current(allow_none=False)
    with Target("llvm -num-cores 2") as outer:
        assert Target.current() is outer
        with Target("cuda -arch=sm_80") as inner:
            assert Target.current() is inner
        assert Target.current(allow_none=False) is outer
        assert contextvars.Context().run(Target.current) is None
    assert Target.current() is None


def test_current_is_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), Target("llvm"):
        raise ZeroDivisionError
    assert Target.current() is None


def test_auto_says_why_once():
    program = "from gputune.target import Target; print(Target('auto').kind); Target('auto')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    kind = done.stdout.strip()
    assert kind in target.BUILDABLE
    lines = [x for x in done.stderr.splitlines() if "target auto is" in x]
    assert len(lines) == 1
    assert f"target auto is {kind}: " in lines[0]


def test_device_key_names_the_machine_not_the_options():
    assert Target("llvm -num-cores 1").device_key == Target("llvm -mattr=-avx2").device_key
    assert host.cpu_name() in Target("llvm").device_key
    assert Target("cuda -arch=sm_90a").device_key != Target("cuda -arch=sm_80").device_key


def test_hexagon_is_a_machine_without_code_generation():
    t = Target("hexagon")
    assert (t.kind, t.num_cores, t.vtcm_capacity) == ("hexagon", 4, 0)
    assert (t.vector_bytes, t.num_vector_registers, t.device_key) == (128, 32, "hexagon")
    t = Target("hexagon --vtcm-capacity=4096 -num-cores 2")
    assert t.vtcm_capacity == 4096
    assert str(t) == "hexagon -num-cores=2 -vtcm-capacity=4096"
    assert Target(str(t)) == Target(t.export()) == t != Target("hexagon")
    assert Target("llvm").vtcm_capacity == 0


def test_host_argument_is_checked():
    assert Target("cuda -arch=sm_80", host="llvm") == Target("cuda -arch=sm_80")
    with pytest.raises(TargetError, match="unknown target kind"):
        Target("cuda -arch=sm_80", host="lvm")


def test_attrs_and_foreign_options():
    t = Target("llvm -num-cores=2 -keys=cpu -libs=mkl")
    assert t.attrs["num-cores"] == 2
    assert "kind" not in t.attrs
    assert "keys" not in t.export()
    with pytest.raises(TargetError, match="vector registers are a property of llvm"):
        _ = Target("cuda -arch=sm_80").vector_bytes


def test_quota_and_affinity_limit_cores(monkeypatch):
    monkeypatch.setattr(host, "_allowed_cpus", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(host, "_siblings", lambda cpu: f"{cpu % 2}")
    monkeypatch.setattr(host, "_cgroup_cpus", lambda: None)
    assert host.usable_cores.__wrapped__() == 2
    monkeypatch.setattr(host, "_cgroup_cpus", lambda: 0.5)
    assert host.usable_cores.__wrapped__() == 1


# ----------------------------------------------------------------------------- tags
@pytest.mark.parametrize(
    ("tag", "arch", "shared"),
    [
        ("nvidia/nvidia-t4", "sm_75", 64 << 10),
        ("nvidia/nvidia-a100", "sm_80", 163 << 10),
        ("nvidia/geforce-rtx-3090", "sm_86", 99 << 10),
        ("nvidia/geforce-rtx-4090", "sm_89", 99 << 10),
        ("nvidia/nvidia-h100", "sm_90a", 227 << 10),
        ("nvidia/jetson-agx-thor", "sm_110a", 227 << 10),
    ],
)
def test_a_tag_names_a_gpu(tag: str, arch: str, shared: int) -> None:
    t = Target(tag)
    assert t == Target(f"cuda -arch={arch}") == Target({"tag": tag})
    assert t.max_shared_memory_per_block == shared
    assert (t.max_threads_per_block, t.thread_warp_size, t.registers_per_block) == (1024, 32, 65536)
    assert Target(t.export()) == t == Target(str(t))


def test_options_replace_those_of_a_tag() -> None:
    t = Target("nvidia/nvidia-h100 -max_threads_per_block=512")
    assert t == Target("cuda -arch=sm_90a -max-threads-per-block=512")
    other = Target({"tag": "nvidia/nvidia-h100", "arch": "sm_90", "max_threads_per_block": 512})
    assert (other.arch, other.max_threads_per_block) == ("sm_90", 512)


def test_every_tag_is_a_target() -> None:
    for name, options in tags.TAGS.items():
        if options["kind"] == "cuda":
            assert Target(name).limits.arch == options["arch"]
        elif host.triple().startswith("x86_64"):
            t = Target(name)
            assert (t.mcpu, t.num_cores) == (options["mcpu"], options["num-cores"])


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("nvidia/geforce-rtx-3091", "unknown target tag 'nvidia/geforce-rtx-3091'",
         "nvidia/geforce-rtx-3090"),
        ("nvidia/a100", "unknown target tag", "nvidia/nvidia-a100"),
        ({"tag": "nvidia/h100"}, "unknown target tag 'nvidia/h100'", "nvidia/nvidia-h100"),
        ("geforce-rtx-3090", "unknown target kind", "nvidia/geforce-rtx-3090"),
        ("cpu", "unknown target kind", "known are: auto, cuda"),
        ("intel/none-such-thing", "unknown target tag", "cuda -arch="),
        ("nvidia/nvidia-v100", "of sm_70, for which no code is generated", "sm_75"),
        ("nvidia/nvidia-a100 -arsh=sm_86", "no option 'arsh'", "arch"),
        ({"tag": 3}, "is a string, not 3", ""),
    ],
)  # fmt: skip
def test_no_such_tag(spec: object, message: str, hint: str) -> None:
    with pytest.raises(TargetError) as caught:
        Target(spec)  # type: ignore[arg-type]  # wrong on purpose
    assert message in caught.value.message
    assert hint in caught.value.hint
