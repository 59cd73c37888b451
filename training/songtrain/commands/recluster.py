"""``songstream recluster``: what a service has stored in, a proposal out: new song types, known ones under their ids."""

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["recluster"]


def recluster(  # noqa: PLR0913, PLR0917 - one parameter per option
    store: Annotated[
        str,
        typer.Option(
            envvar="SONGSTREAM_STORE",
            help="Data directory of the service, or the URL of its store: sqlite:////data/songs.sqlite or "
            "postgresql+psycopg://HOST/NAME.",
        ),
    ],
    bundle: Annotated[Path, typer.Option(help="Bundle to retrain.")],
    active: Annotated[
        bool,
        typer.Option("--active", help="Retrain the bundle that the store says is served, if that is another by now."),
    ] = False,
    models: Annotated[
        Path | None,
        typer.Option(
            help="The service's folder of bundles, where the candidate appears.  [default: models beside the store]"
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(help="quick keeps the encoder and groups the pool; full retrains it and groups all songs anew."),
    ] = "quick",
    run: Annotated[
        str, typer.Option(help="Name of the run; the same one again goes on where it was.  [default: time and mode]")
    ] = "",
    schedule: Annotated[
        str, typer.Option(help="Stay and start a run at these times, as cron has them, UTC: '30 2 * * *'.")
    ] = "",
    work: Annotated[
        Path | None, typer.Option(help="Folder of runs; kept.  [default: reclusterings beside the store]")
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(help="The service's folder of clips and features.  [default: clips beside the store]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with parameters of the run.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster; this machine alone if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every step of a run as one JSON line.")] = False,
) -> None:
    """Propose a new model from what a service has stored; the service itself is not touched.

    Songs that nothing known explains are the pool. Its dense groups become new types, known types keep their ids, and what
    people decided holds. The proposal is a bundle in the service's folder of models, with a report.html, and is served only
    when somebody activates it.

        songstream recluster --store /var/lib/songstream --bundle models/demo-v1

    A pool that is empty, too small or without dense groups is no error: the run then ends without a proposal. A run that was
    killed or cancelled goes on when it is started again under its name, and proposes the same.
    """
    from datetime import UTC, datetime

    from songcore.errors import ConfigError, SongError
    from songtrain.recluster.run_folder import CancelledError, RunState
    from songtrain.recluster.scheduling import Stop, keep_schedule, until_stopped
    from songtrain.recluster.starting import Request, run_request

    if schedule and run:
        raise ConfigError("--run with --schedule: every run of a schedule has a name of its own; leave one of them out")
    request = Request(store, bundle, active, models, mode, run, work, clips, config, address)

    def once(stopped: Stop) -> None:
        def show(state: RunState) -> None:
            print(state.model_dump_json() if as_json else _line(state), flush=True)
            if state.state == "RUNNING":
                stopped.check()

        run_request(request, lambda: datetime.now(UTC), show)

    try:
        with until_stopped() as stopped:
            if schedule:
                keep_schedule(schedule, lambda: once(stopped), lambda: datetime.now(UTC), stopped.wait)
            else:
                once(stopped)
    except CancelledError as error:
        raise SongError(str(error), reason=error.reason) from None


def _line(state: Any) -> str:
    if state.state != "SUCCEEDED":
        return f"{state.n_done}/{state.n_stages} {state.stage} {state.message or ''}".rstrip()
    if state.candidate is None:
        return f"no proposal: {state.outcome.replace('_', ' ')}"
    facts = state.facts
    changes = ", ".join(f"{facts[f'n_{kind}']} {kind}" for kind in ("new", "split", "merged", "retired"))
    return f"proposed {state.candidate} ({facts['n_types']} types: {changes}); gate {facts['gate']}"
