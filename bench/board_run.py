"""A job's photos on one board or several, and what comes back.

Accuracy first: photos are shared out to all boards, and their records come back as they are made
(`spread.py`, `board_feed.py`). Then latency, of a few of the photos, on the first board alone. A
run that was cut off goes on where it was. The host's own CPU is a board like the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgecompress import events
from edgecompress.errors import BoardError, InputError, plain
from edgecompress.files import read_json, sha256_json, write_json

from ..rpc.packages import environment
from ..rpc.session import Session
from ..runner.errors import RunnerError
from ..runner.protocol import Plan, choose, read_lines
from ..runner.records import Record
from ..runner.run import LATENCY, MEASUREMENTS, PREDICTIONS
from ..targets import Board
from .answers import Journal, RecordFile
from .board_feed import PHOTO_S, Told, parsed, serve, within
from .board_photos import COMMAND_S, Shelf, identify, size_of
from .deploy import PYTHON, Deployment, deploy, manifest_sha256, read_manifest, runner_error
from .measured_parts import UNSOUND, cause, measured_parts
from .records import MANY
from .spread import PATIENCE_S, Opener, Work, keep_trying, spread, unreadable

PROFILED_PHOTOS = 3

EMULATED = Plan(photos=5, runs=5, seconds=0, most_seconds=300, cool_seconds=0, retries=0)
"""Where times are an emulator's, a few show what parts there are; no more is to be had."""

# What is kept free on a board for answers, with the logits of a thousand classes.
_RECORDS_BYTES = 512 * 8000


class Photos(Protocol):
    """What is needed of a photo set (`compress.data.photos.PhotoSet` is one)."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        ...


class Options(Protocol):
    """What is needed of a job's `[bench]` table; its limits have been applied to the photos."""

    @property
    def threads(self) -> int | None:
        """CPU threads; None is the cores of the cluster."""
        ...

    @property
    def cluster(self) -> str:
        """Which of the board's cores: "fast", "efficient" or "all"."""
        ...

    @property
    def warmup(self) -> int:
        """Classifications before latency is measured."""
        ...

    @property
    def plan(self) -> Plan:
        """How latency is measured."""
        ...

    @property
    def profile(self) -> bool:
        """Whether operators are timed too."""
        ...


@dataclass(frozen=True)
class BoardRun:
    """What came back from a board.

    Attributes:
        records: photo id to record, as the board wrote it.
        measurements: measurements.json, as the board wrote it (`runner/run.py`), with what the host
            knows of the whole run: `photos`, `photos_failed`, `photos_resumed`, `photos_repeated`
            (listed again, with the same content), `boards` (the first one first: `name`, `photos`
            that it answered, and of the last process's time `starts` and `peak_rss_mib`).
        runs: photo id to the times of its runs in the latency pass that counts, milliseconds of
            each part.
    """

    records: Mapping[str, Record]
    measurements: dict[str, Any]
    runs: dict[str, list[dict[str, float]]] = field(default_factory=dict)


def run_on_boards(
    boards: Mapping[str, Opener],
    bundle: Path,
    photos: Photos,
    out: Path,
    options: Options,
    *,
    patience: float = PATIENCE_S,
) -> BoardRun:
    """Classify photos on boards of one sort, measure on the first, and leave what came in `out`.

    A photo that cannot be read is a record with its error, not a failure of the run. A photo that
    is listed more than once is classified once.

    Args:
        boards: what opens each, by name.
        patience: seconds after which a board that was lost is given up.

    Raises:
        InputError: the bundle is damaged, or no photo at all could be classified.
        BoardError: the boards were lost, are full, or do not fit the bundle.
        CompileError: a network fails on a board.
    """
    with events.task(f"hashing {len(photos.paths)} photos"):
        identities = identify(photos.paths)
    settings = [manifest_sha256(bundle), options.threads, options.cluster]
    key = sha256_json([*settings, sorted(identities)])
    journal = Journal(out, key)
    resumed = len(journal)
    journal.add(unreadable(identities))
    first = next(iter(boards))
    with closing(_Kept(boards[first])) as kept:
        opened = {**boards, first: kept.open}
        run = _Run(opened, bundle, identities, journal, key, options, patience)
        told = _answer(run)
        if journal.failed == len(journal):
            raise InputError(
                f"none of the {journal.failed} photos could be classified",
                f"see the errors in {journal.path}",
            )
        measured = _measure(run, out, kept, begun=told[0]["starts"] > 0)
    journal.write(identities, out / PREDICTIONS)
    peak = max(one["peak_rss_mib"] for one in told)
    whole = {
        **measured,
        "peak_rss_mib": max(measured["peak_rss_mib"], peak),
        "photos": len(journal) - journal.failed,
        "photos_failed": journal.failed,
        "photos_resumed": resumed,
        "photos_repeated": len(photos.paths) - len(identities),
        "boards": told,
    }
    write_json(out / MEASUREMENTS, whole)
    result = read_board_run(out)
    journal.remove()  # last: until then another try asks for no answer twice
    return result


class _Kept:
    """The first board, open from the first photo to the last run.

    Between photos and latency nobody else gets it: its lease goes with its session.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._stack = ExitStack()
        self._session: Session | None = None

    @contextmanager
    def open(self) -> Iterator[Session]:
        """The board, opened where it is not; it stays open unless the block fails."""
        if self._session is None:
            self._session = self._stack.enter_context(self._opener())
        try:
            yield self._session
        except BaseException as error:
            self._session = None
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def close(self) -> None:
        """Close it. Raises what its opener raises at the end, as for a lease that was lost."""
        self._session = None
        self._stack.close()


@dataclass(frozen=True)
class _Run:
    """One call of `run_on_boards`; `key` tells it from others on host and boards."""

    boards: Mapping[str, Opener]
    bundle: Path
    photos: Mapping[str, Path | None]
    journal: Journal
    key: str
    options: Options
    patience: float


def _answer(run: _Run) -> list[dict[str, Any]]:
    """Have every photo answered; returns what each board did."""
    told = {name: Told() for name in run.boards}
    cascade = read_manifest(run.bundle).cascade
    label = f"classifying on {', '.join(run.boards)}"
    with events.task(label, len(run.photos), len(run.journal)) as task:
        work = Work(run.key, run.photos, run.journal, list(run.boards), task)

        def attempt(name: str, session: Session) -> None:
            deployed = deploy(session, run.bundle, _RECORDS_BYTES)
            command = _command(deployed, run.options)
            serve(session, work, name=name, command=command, cascade=cascade, told=told[name])

        spread(work, run.boards, attempt, run.patience)
    answered = {**dict.fromkeys(run.boards, 0), **run.journal.answered}
    answered.pop("", None)  # records that no board has made
    return [
        {"name": name, "photos": count, **asdict(told.get(name, Told()))}
        for name, count in answered.items()
    ]


def _measure(run: _Run, out: Path, kept: _Kept, *, begun: bool) -> dict[str, Any]:
    """Measure latency on the first board; returns what it wrote of it.

    Args:
        begun: whether the board has answered photos just now: it is waited for, then.
    """
    name, options = next(iter(run.boards)), run.options
    reached: list[Deployment] = []
    measured: dict[str, Any] = {}

    def attempt(session: Session) -> None:
        plan = EMULATED if session.board.kind == "virtual" else options.plan
        stages = ((one, run.journal[one].outcome) for one in run.photos)
        answered = [(one, outcome.stage) for one, outcome in stages if outcome]
        chosen = {one: run.photos[one] for one in choose(answered, max(1, plan.photos))}
        files = [(one, path) for one, path in chosen.items() if path]
        reached.append(deploy(session, run.bundle))
        folder = f"runs/{run.key[:24]}-latency"
        shelf = Shelf(session, {one: size_of(path) for one, path in files})
        places = shelf.send(files, f"{folder}/photos")
        # Absolute: the list names its photos relative to its own folder.
        lines = [f"{one}\t{session.workdir}/{place}\n" for one, place in places.items()]
        session.write(f"{folder}/photos.tsv", "".join(lines).encode())
        command = [*_command(reached[-1], options), *_latency_options(options, plan)]
        command += ["--list", f"{folder}/photos.tsv", "--out", folder]
        _stream(session, command, len(files), options.warmup, plan)
        for result in (LATENCY, MEASUREMENTS):
            session.download(f"{folder}/{result}", out / result)
        session.remove(folder)  # before it is looked at: what is damaged is measured anew
        measured.update(_sound(name, out, session.board))
        kept.close()

    keep_trying(name, run.boards[name], attempt, run.patience, begun=lambda: begun or bool(reached))
    return measured


def _sound(name: str, out: Path, board: Board) -> dict[str, Any]:
    """What a board measured, as it came.

    Raises:
        BoardError: a file of it is damaged, or no report can be made of it.
    """
    try:
        measured = read_json(out / MEASUREMENTS, "measurements")
        runs = _runs(out / LATENCY, measured)
    except (InputError, RunnerError) as error:
        raise senseless(name, error.message) from error
    if not isinstance(measured, dict) or not within(measured.get("peak_rss_mib"), MANY):
        raise senseless(name, "its memory is no number")
    try:
        # Finite numbers, and text that files can hold, in all of it: it is kept, and reported.
        json.dumps(measured, indent=1, ensure_ascii=False, allow_nan=False).encode()
        measured_parts(board, measured, runs, {})
    except (RecursionError, *UNSOUND) as error:
        raise senseless(name, cause(error)) from error
    return measured


def senseless(name: str, why: str) -> BoardError:
    """The error for measurements that cannot be."""
    return BoardError(
        f"what '{name}' measured makes no sense: {why}",
        f"check the board: edgecompress doctor --board {name}",
    )


def read_board_run(folder: Path) -> BoardRun:
    """Read back what `run_on_boards` left.

    Raises:
        InputError: a file is missing or damaged.
    """
    measurements = read_json(folder / MEASUREMENTS, "measurements")
    again = f"delete {folder} and run again: edgecompress bench"
    if not (folder / PREDICTIONS).is_file():
        raise InputError(f"no such predictions: {folder / PREDICTIONS}", again)
    records = RecordFile(folder / PREDICTIONS)
    try:
        runs = _runs(folder / LATENCY, measurements)
    except RunnerError as error:
        raise InputError(error.message, again) from error
    return BoardRun(records, measurements, runs)


def _runs(path: Path, measurements: Any) -> dict[str, list[dict[str, float]]]:
    """The runs of the pass that counts; none where latency was not measured.

    Raises:
        RunnerError: the file is missing, or a line is damaged.
    """
    runs: dict[str, list[dict[str, float]]] = {}
    told = measurements.get("latency") if isinstance(measurements, dict) else None
    if not isinstance(told, dict) or told.get("reason") is not None:
        return runs
    try:
        for photo, timings in read_lines(path, told.get("counted", 0)):
            if not all(within(ms, MANY) for ms in timings.values()):
                raise RunnerError("input", f"{path} has a run with times that are none: {timings}")
            runs.setdefault(photo, []).append(timings)
    except OSError as error:
        raise RunnerError("input", f"cannot read {path}: {error.strerror}") from error
    return runs


def _command(deployed: Deployment, options: Options) -> list[str]:
    command = [PYTHON, deployed.runner, deployed.bundle, "--cluster", options.cluster]
    if options.threads:
        command += ["--threads", str(options.threads)]
    return command


def _latency_options(options: Options, plan: Plan) -> list[str]:
    words = ["--warmup", str(options.warmup)]
    for part, value in asdict(plan).items():
        name = "latency-photos" if part == "photos" else part.replace("_", "-")
        words += [f"--{name}", str(value)]
    if options.profile:
        words += ["--profile", str(PROFILED_PHOTOS)]
    return words


def _stream(session: Session, command: list[str], count: int, warmup: int, plan: Plan) -> None:
    """Run the runner, its lines as progress."""
    with events.task(f"measuring latency on {session.name}") as task:

        def show(line: str) -> None:
            if text := plain(_measuring(parsed(line))):
                task.say(text)

        deadline = COMMAND_S + PHOTO_S * count + (1 + plan.retries) * _pass_s(warmup, plan)
        done = session.stream(command, timeout=deadline, on_line=show, env=environment(session))
    if done.returncode != 0:
        raise runner_error(session, done)


def _pass_s(warmup: int, plan: Plan) -> float:
    """The longest time that cooling down, warming up and a latency pass may take."""
    return plan.cool_seconds + max(plan.seconds, plan.most_seconds) + PHOTO_S * (warmup + 1)


def _measuring(event: Mapping[str, Any]) -> str:
    """How the measuring of latency goes, in words; "" of other events."""
    kind = event.get("event")
    try:
        if kind == "cooling":
            now, goal = float(event["temperature_c"]), float(event["below_c"])
            return f"waiting until it is below {goal:g} °C: {now:g} °C"
        if kind == "run":
            return f"pass {event['pass']}: {event['runs']} runs in {event['seconds']} s"
        if kind == "pass" and event["disturbed"]:
            return f"pass {event['pass']} was disturbed: {event['disturbed'][0]}"
    except (LookupError, TypeError, ValueError):
        return ""
    return ""
