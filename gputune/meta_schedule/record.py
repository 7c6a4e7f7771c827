"""What is remembered of a tuning? Workloads and tuning records, as values and as JSON.

Both are data: a workload's script is parsed and never run, a trace is decoded against the list of
known instructions. The one figure by which records are ranked, everywhere, is the median of
`run_secs`, brought to the GPU's reference clock where one is known (`ranking`).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from numbers import Real
from typing import Any, TypeAlias

from ..errors import GputuneError, RecordError, UserError
from ..ir.equal import structural_hash
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule, Trace
from ..target import Target
from ..target.target import TargetLike
from .arg_info import ArgInfo
from .measure_candidate import MeasureCandidate
from .module_equality import as_module
from .ranking import ranked_seconds, unranked
from .timescale import regime_of

Json: TypeAlias = Any

FAILED_SECONDS = 1e10
"""What MetaSchedule writes as the time of a candidate that failed."""

WORKLOAD_VERSION = 1


class Workload:
    """A program to be tuned.

    Args:
        mod: an IRModule, or a PrimFunc (a module of one function).

    Attributes:
        shash: the digest of the program, names ignored.
    """

    __slots__ = ("_mod", "_script", "shash")

    def __init__(self, mod: IRModule | PrimFunc) -> None:
        self._mod: IRModule | None = as_module(mod)
        self._script = ""
        self.shash = structural_hash(self._mod)

    @property
    def mod(self) -> IRModule:
        """The program; parsed from its script on first use.

        Raises:
            RecordError: the script is no program, or not the one that the digest names.
        """
        if self._mod is None:
            self._mod = _parsed(self._script, self.shash)
        return self._mod

    def as_json(self) -> Json:
        """`[hash, {"script": text, "version": 1}]`."""
        script = self._script or self.mod.script()
        return [self.shash, {"script": script, "version": WORKLOAD_VERSION}]

    @staticmethod
    def from_json(json_obj: Json) -> Workload:
        """The workload that `as_json` wrote; its script is parsed when `.mod` is asked for.

        Raises:
            RecordError: it is no workload.
        """
        match json_obj:
            case [str() as shash, {"script": str() as script, "version": int() as version}]:
                pass
            case _:
                raise RecordError(
                    f"workload: expected [hash, {{'script': ..., 'version': 1}}], "
                    f"found {json_obj!r:.80}"
                )
        if version != WORKLOAD_VERSION:
            raise RecordError(
                f"workload: version {version} is not known to this gputune",
                hint=f"it reads version {WORKLOAD_VERSION}",
            )
        out = Workload.__new__(Workload)
        out._mod, out._script, out.shash = None, script, shash
        return out

    def __repr__(self) -> str:
        return f"Workload({self.shash})"


def _parsed(script: str, shash: str) -> IRModule:
    from ..script import from_source

    try:
        mod = as_module(from_source(script))
    except GputuneError as e:
        raise RecordError(f"workload {shash!r:.50}: its script is not a program: {e}") from None
    actual = structural_hash(mod)
    if actual != shash:
        raise RecordError(
            f"workload {shash!r:.50}: its script is another program (digest {actual})",
            hint="the file was changed by hand, or written by another version of gputune",
        )
    return mod


class TuningRecord:
    """One measured (or failed) schedule of a workload.

    Args:
        trace: what was done to the workload's program; an empty one is the unscheduled program.
        workload: the program.
        run_secs: seconds of each repeat; None for a candidate that failed.
        target: the machine it was compiled for.
        args_info: descriptions of the arguments.
        extras: more facts, as JSON-able values. Known keys: "device" (the class of machine; filled
            in from `target`), "program" (digest of the scheduled program), "verified" (did who
            wrote it check its numbers? whoever reads it from a file checks again), "error"
            ({"phase", "kind", "message"} of a failure), "withdraws" (`key` of a record that is not
            to be used), "remeasures" (`key` of a record that has these times from now on, see
            `finalists`; it took "was", and "processes" are the seconds in each), "cut" (timed with
            one call only, being clearly slower), "timing" (how it was measured: "regime" of the
            caches, "spread", "calls", "batches", and the reference kernel's "reference_s",
            "nominal_s" and "drift", see `timescale`), "seed", "time" (Unix seconds), "versions".
            Of a program for a GPU also "facts" (of each kernel, as
            `codegen.cuda.cubin.KernelFacts` has them), "code" (digest of its machine code),
            "same_code_as" (the "program" whose times these are, being those of the same code),
            "excused" (the rule that refuses it, where it was measured all the same).

    Raises:
        RecordError: `run_secs` are no seconds: a list of finite numbers from 0.
        UserError: `workload` is no Workload.

    Attributes:
        own: was it measured by this process? Never so for what a file holds.
        verified: were its numbers compared with those of the unscheduled program, by this process
            or an earlier one of this user? See `admission`.
    """

    __slots__ = (
        "_args_info", "_key", "_target", "_trace", "extras", "own", "run_secs", "verified",
        "workload",
    )  # fmt: skip

    def __init__(
        self,
        trace: Trace,
        workload: Workload,
        run_secs: Sequence[float] | None = None,
        target: TargetLike | None = None,
        args_info: Sequence[ArgInfo] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        self._trace: Trace | Json = trace
        self.workload = _checked_workload(workload)
        self.run_secs = _seconds(None if run_secs is None else _listed(run_secs))
        self._target: Target | Json = None if target is None else Target(target)
        self._args_info: Sequence[ArgInfo] | Json = None if args_info is None else list(args_info)
        self.extras: dict[str, Any] = dict(extras or {})
        self.own = self.verified = False
        self._key = ""
        if self._target is not None:
            self.extras.setdefault("device", self._target.device_key)

    # ------------------------------------------------------------------ what is decoded lazily
    @property
    def trace(self) -> Trace:
        """The trace; RecordError if the file held something else."""
        if not isinstance(self._trace, Trace):
            found = Trace.from_json(self._held_trace())
            _ = self.key  # of what the file holds
            self._trace = found
        return self._trace

    def _held_trace(self) -> Json:
        """The trace as JSON; RecordError if the text of the file is none."""
        if isinstance(self._trace, Trace):
            return self._trace.as_json()
        if not isinstance(self._trace, bytes):
            return self._trace
        try:
            return json.loads(self._trace)
        except (ValueError, RecursionError):
            raise RecordError(f"trace: not JSON: {self._trace[:60]!r}") from None

    @property
    def target(self) -> Target | None:
        """The machine it was compiled for; RecordError if the file held something else."""
        if isinstance(self._target, dict):
            _ = self.key  # of what the file holds
            try:
                self._target = Target(self._target)
            except GputuneError as e:
                raise RecordError(f"tuning record: {e}") from None
        return self._target

    @property
    def args_info(self) -> list[ArgInfo] | None:
        """The arguments; RecordError if the file held something else."""
        found = self._args_info
        if found is None:
            return None
        if any(not isinstance(a, ArgInfo) for a in found):
            found = self._args_info = [ArgInfo.from_json(a) for a in found]
        return list(found)

    # ------------------------------------------------------------------ facts
    @property
    def seconds(self) -> float:
        """The median of `run_secs`, at the GPU's reference clock (see `ranking`): what ranks
        records. Infinite for a failure, and for a sample that does not rank."""
        seconds = ranked_seconds(self.run_secs, self.extras)
        return seconds if seconds < FAILED_SECONDS else math.inf

    @property
    def unranked(self) -> str:
        """Why it was measured and does not rank (others used the GPU), or ""."""
        return unranked(self.extras)

    @property
    def is_valid(self) -> bool:
        """Was it measured, and does it rank? An untuned baseline (empty trace) is a record like any
        other."""
        return self.seconds < math.inf

    @property
    def error(self) -> dict[str, str] | None:
        """Phase, kind and message of a failure, or None."""
        found = self.extras.get("error")
        return found if isinstance(found, dict) else None

    @property
    def regime(self) -> str:
        """What the caches held while it was timed; "warm" where the record does not say. Times of
        different regimes are not compared."""
        return regime_of(self.extras)

    @property
    def program(self) -> str:
        """The digest of the scheduled program, or "" where it is not known."""
        return str(self.extras.get("program", ""))

    @property
    def key(self) -> str:
        """A digest of trace and target as the file holds them: what a withdrawal is about."""
        if not self._key:
            if isinstance(self._trace, bytes):  # of a file, where it has its canonical form
                text = b"[%b,%b]" % (self._trace, canonical(self.target_json()).encode())
            else:
                text = canonical([self._held_trace(), self.target_json()]).encode()
            self._key = blake2b(text, digest_size=16).hexdigest()
        return self._key

    @property
    def withdraws(self) -> str:
        """The key of the record that this one takes back, or ""."""
        found = self.extras.get("withdraws")
        return found if isinstance(found, str) else ""

    @property
    def remeasures(self) -> str:
        """The key of the record whose times these are, or ""."""
        found = self.extras.get("remeasures")
        return found if isinstance(found, str) and self.is_valid else ""

    def target_json(self) -> dict[str, Any] | None:
        """The target as the file holds it."""
        return self._target.export() if isinstance(self._target, Target) else self._target

    def as_measure_candidate(self) -> MeasureCandidate:
        """Replay the trace: the candidate that was measured.

        Raises:
            RecordError: the workload or the trace cannot be read.
            ScheduleError: the trace does not apply.
        """
        sch = Schedule(self.workload.mod, error_render_level="fast")
        self.trace.apply_to_schedule(sch, remove_postproc=False)
        args_info = self.args_info
        if args_info is None:
            args_info = ArgInfo.from_entry_func(self.workload.mod)
        return MeasureCandidate(sch, args_info)

    # ------------------------------------------------------------------ JSON
    def as_json(self) -> Json:
        """`[trace, run_secs, target, args_info, {extras..., "crc": ...}]`; the crc is the CRC-32
        of the canonical JSON of everything else."""
        body = self.content()
        crc = checksum(body)
        body[4]["crc"] = crc
        return body

    def content(self) -> list[Json]:
        """`as_json` without the crc."""
        return [self._held_trace(), *self._rest()]

    def _rest(self) -> list[Json]:
        args = self._args_info
        if args is not None:
            args = [a.as_json() if isinstance(a, ArgInfo) else a for a in args]
        extras = {k: v for k, v in self.extras.items() if k != "crc"}
        return [self.run_secs, self.target_json(), args, extras]

    def text(self) -> str:
        """The canonical JSON text of `content`; of what a file held, the text that it held."""
        held = self._trace
        trace = held.decode() if isinstance(held, bytes) else canonical(self._held_trace())
        return f"[{trace},{canonical(self._rest())[1:]}"

    def copy(self) -> TuningRecord:
        """Another object that says the same, for another database to keep."""
        return TuningRecord.unread(self._trace, self._rest(), self.workload)

    @staticmethod
    def from_json(json_obj: Json, workload: Workload) -> TuningRecord:
        """The record that `as_json` wrote. MetaSchedule's four-element form (no extras, no crc) is
        read too.

        Raises:
            RecordError: it is no record, or its crc is not that of its contents.
            UserError: `workload` is not the Workload that the record is about.
        """
        workload = _checked_workload(workload)
        if not isinstance(json_obj, list) or len(json_obj) not in (4, 5):
            raise RecordError(
                "tuning record: expected [trace, run_secs, target, args_info, extras], found "
                f"{json_obj!r:.80}"
            )
        extras: Any = {}
        if len(json_obj) == 5:
            extras = _checked(json_obj)
        trace = json_obj[0]
        if not isinstance(trace, list):
            raise RecordError(f"tuning record: the trace is {trace!r:.60}, not a list")
        return TuningRecord.unread(trace, [*json_obj[1:4], extras], workload)

    @staticmethod
    def unread(trace: Json | bytes, rest: Sequence[Json], workload: Workload) -> TuningRecord:
        """A record whose trace is JSON, or text of it that is parsed when it is asked for.

        Args:
            trace: as a file holds it.
            rest: times, target, arguments and extras (without crc).
            workload: what the record is about.

        Raises:
            RecordError: the rest is not what it should be.
        """
        run_secs, target, args_info, extras = rest
        if target is not None and not isinstance(target, dict):
            raise RecordError(f"tuning record: the target is {target!r:.60}, not a dict")
        if args_info is not None and not isinstance(args_info, list):
            raise RecordError(f"tuning record: the arguments are {args_info!r:.60}, not a list")
        out = TuningRecord.__new__(TuningRecord)
        out._trace = trace
        out.workload = workload
        out.run_secs = _seconds(run_secs)
        out._target = target
        out._args_info = args_info
        out.extras = extras
        out.own = out.verified = False
        out._key = ""
        return out

    def __repr__(self) -> str:
        what = f"{self.seconds:.6g} s" if self.is_valid else "failed"
        return f"TuningRecord({self.workload.shash[:8]}, {what})"


def _checked_workload(workload: Any) -> Workload:
    if isinstance(workload, Workload):
        return workload
    raise UserError(
        f"tuning record: the workload is {workload!r:.60}, not a Workload",
        hint="Workload(mod), Workload.from_json(...) and Database.commit_workload(mod) give one",
        code="record-workload",
    )


def _checked(json_obj: list[Any]) -> dict[str, Any]:
    """The extras without the crc, which must fit."""
    extras = json_obj[4]
    if not isinstance(extras, dict):
        raise RecordError(f"tuning record: the extras are {extras!r:.60}, not a dict")
    extras = dict(extras)
    crc = extras.pop("crc", None)
    actual = checksum([*json_obj[:4], extras])
    if crc != actual:
        raise RecordError(f"tuning record: crc {crc!r:.20} is not that of its contents ({actual})")
    return extras


def _seconds(run_secs: Any) -> list[float] | None:
    if run_secs is None:
        return None
    good = isinstance(run_secs, list) and all(
        isinstance(s, Real) and not isinstance(s, bool) and 0 <= float(s) < math.inf
        for s in run_secs
    )
    if not good:
        raise RecordError(f"tuning record: the times are {run_secs!r:.60}, not a list of seconds")
    return [float(s) for s in run_secs]


def _listed(run_secs: Any) -> Any:
    """A list of what `run_secs` holds: of any sequence, such as an array; itself if it is none."""
    return list(run_secs) if isinstance(run_secs, Iterable) else run_secs


def canonical(value: Json) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checksum(value: Json) -> int:
    """CRC-32 of the canonical JSON."""
    return zlib.crc32(canonical(value).encode())
