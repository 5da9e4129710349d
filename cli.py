"""The command line: parse, call, render. Commands import what is heavy themselves."""

from __future__ import annotations

import inspect
import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any, get_origin, get_type_hints

import typer
from rich.console import Console
from typer.core import TyperGroup

from dfkd import __version__
from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.orchestrator.cluster_options import ClusterOptions
from dfkd.orchestrator.options import DEFAULT_STORAGE, SweepOptions, default, flags

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dfkd.orchestrator.jobs import Backend
    from dfkd.orchestrator.sweeps import SweepResult

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


class Guarded(TyperGroup):
    """Turns dfkd's errors, from any command, into messages and exit statuses."""

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except ConfigError as error:
            for problem in error.problems:
                err.print(f"error: {problem}", style="red", soft_wrap=True)
            raise typer.Exit(2) from None
        except DfkdError as error:
            err.print(f"failed: {error}", style="red", soft_wrap=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as interrupt:
            err.print(str(interrupt) or "interrupted", soft_wrap=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="dfkd",
    cls=Guarded,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Distill a trained image classifier into a smaller one without its training data, and "
    "search for the recipe that does it best. Start with: dfkd sweep digits --trials 8",
)

pool = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at the synthetic images that a sweep with --keep-pool left, and hand them on. For "
    "example: dfkd pool ls mine, dfkd pool show mine, dfkd pool export mine --to images",
)
app.add_typer(pool, name="pool")

TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="A task (see `dfkd tasks`) or a task's .yaml file.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A sweep (see `dfkd runs`).")]
PoolArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A sweep, or a folder of .arrow files: a path, s3://."),
]
Storage = Annotated[str, typer.Option(help="Where run folders lie: a path, s3://, gs://.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output, nothing else.")]
Data = Annotated[str | None, typer.Option(metavar="PATH", help="Labeled images to measure with.")]
Concurrent = Annotated[int | None, typer.Option(help="Trials at once; default: as many as fit.")]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster; default: $RAY_ADDRESS, or one started here.")
]
Dashboard = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A running Ray's dashboard, as http://HEAD:8265."),
]
Namespace = Annotated[str | None, typer.Option(metavar="NAME", help="Of Kubernetes.")]
IN_PROCESS = (  # the options of a sweep that mean something for one trial without Ray
    *("methods", "epochs", "gpus_per_worker", "cpus_per_worker", "select", "keep_pool"),
    *("from_pool", "settings", "teacher", "student", "data", "seed", "name", "storage"),
    "export_dir",
)
SENT = tuple(one.name for one in fields(SweepOptions) if one.name != "address")

Command = Callable[..., None]


def taking(kind: type, *names: str) -> Callable[[Command], Command]:
    """Give a command the fields of a dataclass as options: all of them, or those named.

    They stand behind the command's arguments and before its own options, and reach it through
    `**given`, from which `asked` makes the fields' values.
    """
    types = get_type_hints(kind)
    chosen = [one for one in fields(kind) if not names or one.name in names]

    def parameter(one: Any) -> inspect.Parameter:
        several = get_origin(types[one.name]) in (tuple, Mapping)
        about = {key: one.metadata[key] for key in ("help", "metavar") if one.metadata.get(key)}
        typed: Any = list[str] if several else types[one.name]
        return inspect.Parameter(
            one.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=list(default(one)) if several else default(one),
            annotation=Annotated[typed, typer.Option(flags(one), **about)],
        )

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        named = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        arguments = [p for p in named if p.default is inspect.Parameter.empty]
        options = [p for p in named if p.default is not inspect.Parameter.empty]
        together = [*arguments, *map(parameter, chosen), *options]
        command.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
        return command

    return decorate


def asked(given: dict[str, Any]) -> dict[str, Any]:
    """What was typed, as the fields of the dataclass that the options are from."""
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    if "settings" in given:
        values["settings"] = settings_in(given["settings"])
    return values


def settings_in(pairs: list[str] | None) -> dict[str, str | None]:
    """What `--set KEY=VALUE` said; None for a key without a value, which is refused later."""
    parts = (pair.partition("=") for pair in pairs or ())
    return {key: value if equals else None for key, equals, value in parts}


@app.command()
@taking(SweepOptions)
def sweep(
    task: TaskArgument,
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan only: memory, hours, files.")
    ] = False,
    **given: Any,
) -> None:
    """Search TASK for the recipe whose student is best, and export that student.

    The same command again resumes a sweep that was interrupted; --dry-run measures a few steps and
    says what all of it would take. Exit status: 0 done, 1 a trial or dfkd failed, 2 a mistake in
    the command, 130 interrupted (the state is saved).
    """
    if dry_run:
        show_plan({"task": task, **asked(given)}, json)
        return
    from dfkd.orchestrator import sweep as run

    carry_out(run, json, task=task, **asked(given))


@app.command()
@taking(SweepOptions, *IN_PROCESS)
def distill(task: TaskArgument, json: Json = False, **given: Any) -> None:
    """Run one recipe, the task's own as set, in this process and without Ray."""
    import torch

    from dfkd.orchestrator import distill as run

    torch.set_num_threads(max(1, int(given["cpus_per_worker"])))
    carry_out(run, json, task=task, **asked(given))


@app.command()
def resume(
    name: NameArgument,
    trials: Annotated[int | None, typer.Option(help="More trials than were asked for.")] = None,
    concurrent: Concurrent = None,
    address: Address = None,
    storage: Storage = DEFAULT_STORAGE,
    json: Json = False,
) -> None:
    """Finish the interrupted sweep NAME: what is done stays, the rest runs."""
    from dfkd.orchestrator import resume as run

    changes = {"trials": trials, "concurrent": concurrent, "address": address}
    carry_out(run, json, name=name, storage=storage, **changes)


@app.command()
@taking(SweepOptions, *SENT)
@taking(ClusterOptions)
def submit(
    task: TaskArgument,
    address: Dashboard = None,
    python: Annotated[
        str | None, typer.Option(metavar="PATH", help="With --address: the head's interpreter.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Send it, and do not wait.")] = False,
    json: Json = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")
    ] = False,
    **given: Any,
) -> None:
    """Run the same sweep on a cluster, and follow it: as a KubeRay job, or on a Ray that runs.

    For example: dfkd submit imagenet --trials 64 --gpus-per-worker 1 --workers-max 16 --image
    IMAGE --storage s3://BUCKET/runs --secret s3-keys, or: dfkd submit digits --storage
    s3://BUCKET/runs --address http://HEAD:8265

    Ctrl-C leaves the job alone; `dfkd status NAME --watch` comes back to it, `dfkd stop NAME` ends
    it. The same command with its --name again resumes it. See docs/kubernetes.md and
    docs/clusters.md.
    """
    from dfkd.orchestrator.requests import SweepRequest
    from dfkd.orchestrator.submitting import prepare

    of_cluster = asked({one.name: given.pop(one.name) for one in fields(ClusterOptions)})
    request = SweepRequest(task=task, **asked(given))
    sending = prepare(request, ClusterOptions(**of_cluster), address, python)
    if dry_run:
        sys.stdout.write(sending.shown())
        return
    name, backend = sending.job.name, sending.backend()
    backend.submit(sending.job)
    if detach:
        facts = {"event": "submitted", "name": name, "storage": request.storage}
        present(json, [backend.leave(name)], facts)
    else:
        attach(backend, name, json)


@app.command()
def stop(name: NameArgument, address: Dashboard = None, namespace: Namespace = None) -> None:
    """End a job that `dfkd submit` sent; its sweep stays, and can be resumed by the same command.

    For example: dfkd stop mine --namespace default, or: dfkd stop mine --address http://HEAD:8265
    """
    from dfkd.orchestrator.submitting import find_backend

    find_backend(address, namespace).stop(name)
    out.print(f"{name} has ended; `dfkd submit` with --name {name} resumes its sweep")


@app.command()
def logs(name: NameArgument, address: Dashboard = None, namespace: Namespace = None) -> None:
    """Print what a job that `dfkd submit` sent prints, as it is, until it ends.

    Its lines are the events that `dfkd sweep --json` prints; `dfkd status NAME --watch` shows them
    as a leaderboard.
    """
    from dfkd.orchestrator.submitting import find_backend

    for line in find_backend(address, namespace).logs(name):
        print(line, flush=True)


@app.command()
def teacher(
    context: typer.Context,
    task: TaskArgument,
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Labeled images; default: the task's.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="One of the task's `teachers`.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As epochs=60; repeat.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="Default: the task's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the task's.")] = None,
    to: Annotated[str | None, typer.Option(help="Default: ./TASK-teacher.safetensors.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Train a teacher for TASK from labeled images, for want of one, and measure it.

    For example: dfkd teacher digits --set epochs=60 --to mine.safetensors, and then: dfkd sweep
    digits --teacher mine.safetensors. To set: epochs, batch_size, learning_rate, weight_decay,
    shift, flip. What is not set is as in the task.
    """
    from dfkd.orchestrator import rendering
    from dfkd.orchestrator.progress import progress
    from dfkd.orchestrator.teaching import TeacherRequest, teach

    fields = {key: v for key, v in context.params.items() if key not in ("json", "set_")}
    request = TeacherRequest(**fields, settings=settings_in(set_))
    with progress(out, f"{task} teacher", json) as on_progress:
        found = teach(request, on_progress)
    present(json, rendering.teacher(found), asdict(found))


@app.command()
def evaluate(
    student: Annotated[
        str, typer.Argument(metavar="STUDENT", help="A sweep, its best/ folder, or a .pt2 file.")
    ],
    task: Annotated[str | None, typer.Option(help="Default: that of its sweep.")] = None,
    data: Data = None,
    storage: Storage = DEFAULT_STORAGE,
    json: Json = False,
) -> None:
    """Measure an exported student's accuracy, and how it agrees with its teacher."""
    from dfkd.orchestrator import rendering
    from dfkd.orchestrator.evaluation import evaluate as measure

    found = measure(student, storage, task, data)
    present(json, rendering.evaluation(found), asdict(found))


@app.command()
def export(
    name: NameArgument,
    to: Annotated[str, typer.Option(help="The folder to write.")],
    trial: Annotated[str | None, typer.Option(help="Default: the best.")] = None,
    format: Annotated[list[str] | None, typer.Option(help="safetensors, pt2, pt; repeat.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write a student of sweep NAME again: another trial's, or in another format."""
    from dfkd.orchestrator.catalog import export_again

    folder = export_again(name, storage, to, trial, format or ["safetensors", "pt2"])
    out.print(f"wrote {', '.join(folder.files())} to {folder.uri}", soft_wrap=True)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Default: latest.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    address: Dashboard = None,
    namespace: Namespace = None,
    json: Json = False,
) -> None:
    """Show a sweep's leaderboard as its run folder tells it, running or not.

    With --address or --namespace: how a job does that `dfkd submit` sent there. Ctrl-C ends the
    watching, and no sweep.
    """
    if address is not None or namespace is not None:
        show_job(name, address, namespace, watch, json)
        return
    from dfkd.orchestrator.board import leaderboard
    from dfkd.orchestrator.catalog import find_run, state, summary
    from dfkd.orchestrator.progress import sweep_watcher

    run = find_run(name, storage)
    if watch:
        from dfkd.orchestrator.watching_runs import watch as follow

        follow(run, sweep_watcher(out, json))
    where = f"{run.name} is {state(run)}, in {run.folder.uri}"
    present(json, [where] if watch else [leaderboard(run, out), where], summary(run))


@app.command()
def runs(storage: Storage = DEFAULT_STORAGE, json: Json = False) -> None:
    """List the sweeps in a storage folder."""
    from dfkd.orchestrator import rendering
    from dfkd.orchestrator.catalog import summary
    from dfkd.orchestrator.runs import find_runs
    from dfkd.orchestrator.storage import Folder

    folder = Folder.of(storage)
    found = [summary(run) for run in find_runs(folder)]
    present(json, rendering.runs(found, folder.uri), *found)


@pool.command("ls")
def list_pool(name: PoolArgument, storage: Storage = DEFAULT_STORAGE, json: Json = False) -> None:
    """List the files of a pool: where their images come from, and how many of each class.

    For example: dfkd pool ls mine. Images are not read, so it is fast on large pools too. What
    the files hold is described in docs/pool-format.md.
    """
    from dfkd.orchestrator import rendering
    from dfkd.orchestrator.pool_files import survey
    from dfkd.orchestrator.pools import find_pool

    folder = find_pool(name, storage)
    files = survey(folder)
    present(json, rendering.pool(files, folder.uri), *rendering.pool_as_json(files))


@pool.command("show")
def show_pool(
    name: PoolArgument,
    to: Annotated[str, typer.Option(help="The .png file to write.")] = "pool.png",
    per_class: Annotated[int, typer.Option(help="Images in a row, at most.")] = 10,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Draw some images of each class, one class a row, the same ones every time.

    For example: dfkd pool show mine --to mine.png --per-class 20
    """
    from dfkd.orchestrator.contact_sheet import save_contact_sheet
    from dfkd.orchestrator.pools import find_pool

    where = save_contact_sheet(find_pool(name, storage), to, per_class)
    out.print(f"wrote {where}", soft_wrap=True)


@pool.command("export")
def export_pool(
    name: PoolArgument,
    to: Annotated[str, typer.Option(metavar="DIR", help="A new or empty folder.")],
    format: Annotated[str, typer.Option(help="imagefolder or webdataset.")] = "imagefolder",
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write all images for other programs, as image files or as tar files.

    imagefolder: DIR/CLASS/000000.png, as torchvision's ImageFolder reads them.

    webdataset: DIR/000000.tar and so on, each image as 000000.png, .cls (its label), .json (where
    it comes from).

    For example: dfkd pool export mine --to images, or: dfkd pool export mine --to tars --format
    webdataset
    """
    from dfkd.orchestrator.pool_export import export_pool as write
    from dfkd.orchestrator.pools import find_pool
    from dfkd.orchestrator.progress import progress

    folder = find_pool(name, storage)
    with progress(out, f"pool {name}", False, "exported") as on_progress:
        found = write(folder, to, format, on_progress)
    out.print(f"wrote {found.images:,} images to {found.folder}", soft_wrap=True)


@app.command()
def tasks(json: Json = False) -> None:
    """List the tasks that come with dfkd."""
    from dfkd.orchestrator import rendering
    from dfkd.search_spaces.task import load_task, shipped_tasks

    known = [load_task(name) for name in shipped_tasks()]
    facts = ({"name": task.name, "summary": task.summary} for task in known)
    present(json, rendering.tasks(known), *facts)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[METHOD]", help="Its settings.")] = None,
    json: Json = False,
) -> None:
    """List the methods, or one method's settings."""
    from dfkd.methods import METHODS
    from dfkd.orchestrator import rendering

    if name is None:
        listed = ({"name": known, **asdict(facts)} for known, facts in METHODS.items())
        present(json, rendering.methods(), *listed)
    else:
        present(json, rendering.settings(name), *rendering.settings_as_json(name))


@app.command()
def show(task: TaskArgument) -> None:
    """Print a task's YAML, to read or to start one's own from."""
    from dfkd.search_spaces.task import load_task

    sys.stdout.write(load_task(task).text)


@app.command()
def embed(
    task: TaskArgument,
    source: Annotated[str | None, typer.Option(help="Default: the task's `embeddings`.")] = None,
    to: Annotated[str | None, typer.Option(help="A .safetensors file to write.")] = None,
    picture: Annotated[str | None, typer.Option(help="A .png file to draw the cosines in.")] = None,
    json: Json = False,
) -> None:
    """Compute the label texts' embeddings of TASK, and look at their geometry.

    For example: dfkd embed cifar10 --source open_clip:ViT-B-32/openai --to clip.safetensors
    """
    from dfkd.orchestrator import embedding

    found = embedding.embed(task, source, to, picture)
    present(json, embedding.told(found), embedding.as_json(found))


@app.command()
def doctor(storage: Storage = DEFAULT_STORAGE, address: Address = None) -> None:
    """Check what is installed, which devices there are, if Ray starts, if storage is writable."""
    from dfkd.orchestrator.doctor import examine

    good = []
    for finding in examine(storage, address):
        good.append(finding.good)
        mark, style = ("ok", "") if finding.good else ("bad", "red")
        out.print(f"{mark:>4} {finding.what}: {finding.told}", style=style, soft_wrap=True)
    if not all(good):
        raise typer.Exit(1)


def show_plan(fields: dict[str, Any], as_json: bool) -> None:
    """What a sweep would do, take and leave."""
    from dfkd.orchestrator.plan_rendering import dry_run
    from dfkd.orchestrator.requests import SweepRequest

    say = lambda text: err.print(text, soft_wrap=True)  # noqa: E731
    present(as_json, *dry_run(SweepRequest(**fields), say))


def carry_out(run: Callable[..., SweepResult], as_json: bool, **fields: Any) -> None:
    """Run a sweep, watched, and say how it ended; exit status 1 if a trial failed."""
    from dfkd.orchestrator import catalog, rendering
    from dfkd.orchestrator.progress import sweep_watcher

    result = run(**fields, watcher=sweep_watcher(out, as_json))
    facts = {"event": "sweep_ended", **catalog.outcome(result)}
    present(as_json, rendering.outcome(result), facts)
    if result.failed:
        raise typer.Exit(1)


def show_job(
    name: str | None, address: str | None, namespace: str | None, watch: bool, as_json: bool
) -> None:
    """A job on a cluster: its state, or all of it from its first line."""
    from dfkd.orchestrator.submitting import find_backend

    if name is None:
        raise ConfigError("which job? `dfkd status NAME`, with the name that `submit` told")
    backend = find_backend(address, namespace)
    if watch:
        attach(backend, name, as_json)
        return
    state = backend.state(name)
    told = f": {state.told}" if state.told else ""
    present(as_json, [f"{name} is {state.status}{told}"], {"name": name, **asdict(state)})


def attach(backend: Backend, name: str, as_json: bool) -> None:
    """Follow a job to its end, and say how that was; exit status 1 unless all went well."""
    from dfkd.orchestrator import outcomes
    from dfkd.orchestrator.jobs import follow
    from dfkd.orchestrator.progress import sweep_watcher

    state = follow(backend, name, sweep_watcher(out, as_json))
    if state.outcome is not None:
        facts = {"event": "sweep_ended", **state.outcome}
        present(as_json, outcomes.outcome(state.outcome), facts)
    if state.status != "succeeded":
        err.print(f"{name} {state.status}: {state.told}", style="red", soft_wrap=True)
        raise typer.Exit(1)


def present(as_json: bool, parts: Iterable[RenderableType], *values: dict[str, Any]) -> None:
    """A result: one JSON object per line, or tables and sentences, one below the other."""
    if as_json:
        for value in values:
            print(json.dumps(value), flush=True)
        return
    for part in parts:
        out.print(part, soft_wrap=isinstance(part, str))


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point: SIGTERM, as a scheduler sends it, counts as Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
