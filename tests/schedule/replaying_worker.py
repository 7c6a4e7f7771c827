"""A worker process that also replays a trace on a program, and fails as that does."""

from __future__ import annotations

from typing import Any

from gputune.runtime import operations, worker


def replay(args: Any, blobs: Any) -> Any:
    """Args: "script", "trace" (JSON). Answer: the program's "script"."""
    from gputune.schedule import Schedule, Trace
    from gputune.script import from_source

    sch = Schedule(from_source(args["script"]))
    Trace.from_json(args["trace"]).apply_to_schedule(sch)
    return {"script": sch.mod.script()}, ()


if __name__ == "__main__":
    import tests.properties.moves  # noqa: F401  # registers the intrinsics that the moves use

    operations.OPERATIONS["replay"] = replay  # type: ignore[index]  # a table of this process
    worker.main()
