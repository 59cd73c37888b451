"""``songstream cluster``: find the song types of an archive with an encoder that is trained already."""

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["cluster"]


def cluster(  # noqa: PLR0913, PLR0917 - one parameter per option
    data: Annotated[Path, typer.Option(help="Folder with recordings, and songs.csv where songs are annotated.")],
    bundle: Annotated[Path, typer.Option(help="Bundle whose encoder places the songs.")],
    out: Annotated[Path, typer.Option(help="Folder for the embedded songs and clusters.parquet; kept.")],
    clusters: Annotated[
        int | None, typer.Option(min=1, help="Number of clusters, by k-means; found by density if not given.")
    ] = None,
    min_songs: Annotated[
        int | None,
        typer.Option(
            min=2, help="Songs that a dense cluster needs at least; 0.2 % of all, from 5 to 10, if not given."
        ),
    ] = None,
    per_shard: Annotated[int, typer.Option(min=1, help="Recordings in one file, and so in one task.")] = 20,
    channel: Annotated[int | None, typer.Option(min=1, help="Channel to listen to; the mean of all else.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of k-means.")] = 0,
    address: Annotated[str | None, typer.Option(help="Ray cluster; this machine alone if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line about the run.")] = False,
) -> None:
    """Embed the songs of more recordings than one machine holds, and cluster them.

    Nothing is learned. Songs are embedded in shards of a few recordings, each a file of its own: the same command goes on
    where it was stopped. The result is clusters.parquet, one row per song, -1 where a song is in no dense cluster.

        songstream cluster --data archive --bundle bundle --out embedded --address ray-head:6379
    """
    from rich.console import Console
    from rich.progress import Progress

    from songtrain.archive.run import ArchiveJob, cluster_archive

    job = ArchiveJob(data, bundle, out, clusters, per_shard, channel, seed, address, min_songs)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("shards", total=None)
        result = cluster_archive(job, lambda done, total: progress.update(task, completed=done, total=total))
    if as_json:
        print(json.dumps(result))
        return
    left_out = f", {result['n_unclustered']} songs in none" if result["n_unclustered"] else ""
    print(
        f"{result['n_clusters']} clusters in {result['n_songs']} songs of {result['n_recordings']} recordings "
        f"({result['n_skipped']} skipped){left_out}: {result['table']}"
    )
