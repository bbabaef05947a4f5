"""The verbs over a job file: `run`, and each step alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgecompress.errors import UsageError

from . import steps, summary
from .job import DeployTable, Job, load_job
from .run import Run
from .state import open_workspace
from .verb import Data, History, Json, Wait, duration, example, verb, waiting

# verb -> (last step, what the help says, what is printed at the end)
VERBS = {
    "run": ("report", "Do every step of a job that is not yet done, and report.", summary.report),
    "compress": ("reference", "Write the cascade: train and shrink, or export.", summary.compress),
    "quantize": ("quantize", "Make the cascade int8, behind a gate.", summary.quantize),
    "tune": ("tune", "Measure kernels on the board; the next compile uses them.", summary.tune),
    "compile": ("compile", "Cross-compile the cascade and build the bundle.", summary.compile_),
    "deploy": ("deploy", "Put the bundle on the board and have it checked there.", summary.deploy),
    "bench": ("peers", "Classify the job's photos on the board.", summary.bench),
    "report": ("report", "Write report.json, report.html and report.md.", summary.report),
}


# What a verb's example is given, where the demo's job alone shows nothing of it.
_EXAMPLES = {
    "run": "examples/demo.toml --board host --out out/host",
    "compress": "examples/imagenette.toml --quick",
    "quantize": "examples/demo.toml --precision int8",
    "tune": "examples/demo.toml --board host --budget 10m",
}


class TuningCost(StrEnum):
    """What `--cost` may say; by default what the job says."""

    JOB = "job"
    TIME = "time"
    CYCLES = "cycles"


class Precision(StrEnum):
    """What `--precision` may say."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


class ClusterChoice(StrEnum):
    """What `--cluster` may say; by default what the job says."""

    JOB = "job"
    FAST = "fast"
    EFFICIENT = "efficient"
    ALL = "all"


JobBoards = Annotated[
    list[str] | None,
    typer.Option(
        "--board",
        "-b",
        help="A board; `edgecompress boards` lists them. Again for more of the same sort: kernels"
        " are tuned and photos answered on all of them at the same time, all else is done on the"
        " first.",
    ),
]
JobFile = Annotated[Path, typer.Argument(help="A job file, such as examples/demo.toml.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="The job's folder; by default out/<name>.")
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="Train as the job's \\[compress.quick] tables say: minutes, not hours."
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most so many photos, evenly spread.")
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        help="What networks may cost: 0.5x of the base, 1.2GMACs, 40ms on the board; again for more"
        " members. Or how long to tune: 90s, 10m, 2h. Overrides the job.",
    ),
]
Trials = Annotated[
    int | None, typer.Option("--trials", min=1, help="At most so many measurements when tuning.")
]

Cost = Annotated[
    TuningCost,
    typer.Option(
        "--cost",
        help="Tune by time on the board, or (without one) by cycles estimated under emulation.",
    ),
]
Numbers = Annotated[
    Precision | None,
    typer.Option("--precision", help="What the compiled networks compute with; overrides the job."),
]

Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", "-t", min=1, max=64, help="CPU threads; absent: the cluster's cores."
    ),
]
OnCluster = Annotated[
    ClusterChoice,
    typer.Option("--cluster", help="Which cores of a big.LITTLE board to compile for and run on."),
]

Peers = Annotated[
    bool | None,
    typer.Option("--peers/--no-peers", help="Compare the networks with other engines too."),
]


Sign = Annotated[
    str | None,
    typer.Option("--sign", metavar="KEY", help="Sign the bundle (`edgecompress keys`)."),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for name in VERBS:
        if name not in ("bench", "report"):  # groups, each with its verb in it: `bench.py`
            add(app, name)


def add(app: typer.Typer, verb_name: str, called: str | None = None) -> None:
    """Add one verb, under another name where `called` gives one."""
    last, text, tell = VERBS[verb_name]
    line = f"edgecompress {verb_name} {_EXAMPLES.get(verb_name, 'examples/demo.toml')}"
    app.command(called or verb_name, help=text, epilog=example(line))(_command(last, tell))


def _command(last: str, tell: summary.Tell) -> Any:
    @verb
    def command(
        job: JobFile,
        *,
        out: Out = None,
        board: JobBoards = None,
        data: Data = None,
        limit: Limit = None,
        quick: Quick = False,
        precision: Numbers = None,
        budget: Budget = None,
        trials: Trials = None,
        cost: Cost = TuningCost.JOB,
        threads: Threads = None,
        cluster: OnCluster = ClusterChoice.JOB,
        peers: Peers = None,
        wait: Wait = None,
        history: History = None,
        sign: Sign = None,
        as_json: Json = False,
    ) -> Any:
        wanted = load_job(job)
        if quick:
            check_quick(wanted)
        wanted = _overridden(wanted, limit, budget or [], trials, cost)
        wanted = _benched(wanted, threads, cluster, peers)
        if precision is not None:
            quantize = wanted.quantize.model_copy(update={"precision": precision.value})
            wanted = wanted.model_copy(update={"quantize": quantize})
        wanted = _signed(wanted, sign)
        default = Path("out") / (f"{wanted.name}-quick" if quick else wanted.name)
        with open_workspace(out or default) as space:
            first, tuned_on = (board or [wanted.board])[0], tuple(board or wanted.tune.boards)
            run = Run(
                wanted,
                space,
                first,
                data,
                quick,
                tuned_on,
                history,
                waiting(wait),
                answered_by=tuple(board or ()),
            )
            run = steps.run_until(run, last)
            return tell(run, as_json)

    return command


def check_quick(job: Job) -> None:
    """Refuse `--quick` where it would change nothing.

    Raises:
        UsageError: the job trains nothing, or says nothing of how to do it quickly.
    """
    if job.compress is None:
        raise UsageError(f"--quick: job {job.name} trains nothing", "leave it out")
    if not job.compress.get("quick"):
        raise UsageError(
            f"--quick: job {job.name} has no [compress.quick] tables, it would train for as long",
            "leave it out, or give the job such tables as examples/imagenette.toml has",
        )


def _signed(job: Job, sign: str | None) -> Job:
    """The job with another key; whether there is one is seen now, not after the compile."""
    sign = sign or job.deploy.sign
    if sign is None:
        return job
    from ..compile.signing import public_key

    return job.model_copy(update={"deploy": DeployTable(sign=public_key(sign).name)})


def _overridden(
    job: Job, limit: int | None, budgets: list[str], trials: int | None, cost: TuningCost
) -> Job:
    """The job with what the command line says instead."""
    from ..compress.budget import is_budget

    times = [one for one in budgets if not is_budget(one)]
    if bare := [one for one in times if one[-1:].isdigit()]:
        raise UsageError(
            f"--budget {bare[0]}: of what?",
            f"{bare[0]}x of the base's MACs, for a network; or {bare[0]}s, to tune for",
        )
    if len(times) > 1:
        raise UsageError(
            f"--budget: {' and '.join(times)} are two times to tune for", "give one of them"
        )
    job = _budgeted(job, [one for one in budgets if is_budget(one)])
    budget = times[0] if times else None
    bench, tune = job.bench, job.tune
    if limit is not None:
        bench = bench.model_copy(update={"limit": limit, "emulated_limit": limit})
    if budget is not None or trials is not None:
        seconds = 0 if budget is None else _tuning_time(budget)
        tune = tune.model_copy(update={"seconds": seconds, "trials": trials or 0})
    if cost is not TuningCost.JOB:
        tune = tune.model_copy(update={"cost": cost.value})
    return job.model_copy(update={"bench": bench, "tune": tune})


def _tuning_time(budget: str) -> float:
    try:
        return duration(budget, "--budget")
    except UsageError as error:
        hint = f"{error.hint} to tune for; or 0.5x, 1.2GMACs or 40ms, which networks may cost"
        raise UsageError(error.message, hint) from None


def _budgeted(job: Job, budgets: list[str]) -> Job:
    """The job with other budgets of the cascade's members.

    Raises:
        UsageError: one is none, or the job compresses nothing.
    """
    if not budgets:
        return job
    from ..compress.budget import parse_budget

    if job.compress is None:
        raise UsageError(
            f"--budget {budgets[0]}: job {job.name} compresses nothing",
            "examples/imagenette.toml is a job that does",
        )
    order = sorted(map(parse_budget, budgets), key=lambda one: (one.kind, one.value))
    members = {"budgets": [one.to_json() for one in order]}
    table, quick = dict(job.compress), dict(job.compress.get("quick") or {})
    table["members"] = {**(table.get("members") or {}), **members}
    if quick.get("members"):
        table["quick"] = {**quick, "members": {**quick["members"], **members}}
    return job.model_copy(update={"compress": table})


def _benched(job: Job, threads: int | None, cluster: ClusterChoice, peers: bool | None) -> Job:
    """The job with other cores, another number of threads, with or without other engines."""
    changed: dict[str, Any] = {} if threads is None else {"threads": threads}
    if cluster is not ClusterChoice.JOB:
        changed["cluster"] = cluster.value
    if peers is not None:
        changed["peers"] = peers
    return job.model_copy(update={"bench": job.bench.model_copy(update=changed)})
