"""Is a program refused as out of bounds only if it is? The interpreter must agree."""

from __future__ import annotations

import random
from dataclasses import replace

from gputune.errors import RunError, UserError
from gputune.ir import build as b
from gputune.ir.in_bounds import check_in_bounds
from gputune.ir.interp import run
from gputune.ir.nodes import Block, Buffer, PrimFunc
from gputune.ir.walk import replace_buffers

from .law import random_schedule
from .moves import inputs
from .programs import PROGRAMS

_SCHEDULES = 6  # of each program


def smaller(func: PrimFunc, rng: random.Random) -> PrimFunc:
    """One dimension of one parameter is one element shorter; the program is what it was."""
    old: Buffer = rng.choice(func.buffers)
    at = rng.randrange(len(old.shape))
    size = b.const_int(old.shape[at])
    assert size is not None
    shape = [*old.shape[:at], b.const(size - 1), *old.shape[at + 1 :]]
    new = replace(old, shape=tuple(shape))
    body = replace_buffers(func.body, {old: new})
    assert type(body) is Block
    table = tuple([(p, new if x is old else x) for p, x in func.buffer_map])
    return PrimFunc(func.params, table, body, func.attrs)


def refused(func: PrimFunc) -> bool:
    try:
        check_in_bounds(func)
    except UserError:
        return True
    return False


def fails(func: PrimFunc, seed: int) -> bool:
    try:
        run(func, *inputs(func, seed))
    except RunError as e:
        return e.code == "bounds"
    return False


def test_what_is_refused_fails_and_what_works_is_not_refused() -> None:
    rng = random.Random(5)
    found = missed = fine = 0
    for which, program in enumerate(PROGRAMS):
        for k in range(_SCHEDULES):
            seed = 100 * which + k
            func = program()
            whole = func if k == 0 else random_schedule(func, seed).mod[func.name]
            assert not refused(whole), f"{program.__name__}, seed {seed}: a false alarm\n{whole}"
            if not all(x.shape for x in whole.buffers):
                continue
            less = smaller(whole, rng)
            if refused(less):
                assert fails(less, seed), f"{program.__name__}, seed {seed}: false alarm\n{less}"
                found += 1
            elif fails(less, seed):
                missed += 1
            else:
                fine += 1
    assert found > 20 * missed, (found, missed, fine)
