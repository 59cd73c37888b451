"""Write Grafana's dashboards, or check that the committed ones are what this program writes.

One entry for each panel: what it shows, how it is asked, in which unit. A test asks a live server for every metric that is
named here.
"""

# ruff: noqa: INP001 - a program, not a package

import argparse
import json
import sys
from pathlib import Path

from panels import Board, Panel, Query, board_json, mean, quantiles, rate_by

FOLDER = Path(__file__).resolve().parent / "dashboards"

SONGS = "songstream_songs_total"
EFFORT = "songstream_recorded_seconds_total"
# A counter of songs begins where the store is, so its increase over hours is right across restarts.
EFFORT_HOURS = f"sum(increase({EFFORT}[1h])) / 3600"

FIELD = Board(
    "songstream-field",
    "Songstream: field overview",
    "What sings, how often, and whether every station listens.",
    [
        Panel(
            "Songs per hour of effort, by type",
            "Songs of the last hour divided by the hours that all stations recorded in it; noise is left out.",
            [
                Query(
                    f'sum by (song_type) (increase({SONGS}{{song_type!="noise"}}[1h])) / on () group_left () '
                    f"({EFFORT_HOURS})",
                    "{{song_type}}",
                )
            ],
            stacked=True,
            width=16,
            height=10,
        ),
        Panel(
            "Songs stored",
            "Since the data directory began, by type; noise is left out.",
            [Query(f'sort_desc(sum by (song_type) ({SONGS}{{song_type!="noise"}}))', "{{song_type}}")],
            kind="bargauge",
            width=8,
            height=10,
        ),
        Panel(
            "Share of novel songs",
            "Songs that are like nothing in the bundle, of all songs of six hours; the alert NoveltyHigh is at 30 %.",
            [
                Query(
                    f'sum(increase({SONGS}{{song_type="novel"}}[6h])) / '
                    f'sum(increase({SONGS}{{song_type!="noise"}}[6h]))',
                    "novel",
                )
            ],
            unit="percentunit",
        ),
        Panel(
            "States and grades of songs",
            "Songs of six hours by novelty, and those that are not good by what is wrong with them.",
            [
                Query("sum by (novelty) (increase(songstream_songs_graded_total[6h]))", "{{novelty}}"),
                Query(
                    'sum by (quality) (increase(songstream_songs_graded_total{quality!="good"}[6h]))',
                    "{{quality}}",
                ),
            ],
        ),
        Panel(
            "Pool",
            "Novel and uncertain songs of good quality, which new types may come from.",
            [Query("max(songstream_novel_pool_size)", "songs")],
        ),
        Panel(
            "Drift of known songs",
            "How far their p-values are from uniform; the alert NoveltyDrift is at 0.12 in the direction stranger.",
            [Query("max by (station, direction) (songstream_novelty_drift_distance)", "{{station}} {{direction}}")],
            unit="none",
        ),
        Panel(
            "Similarity to the nearest type",
            "Median and lowest tenth of the cosine to the nearest prototype; a drift shows here first.",
            quantiles("songstream_song_similarity", 0.5, 0.1, window="6h"),
            unit="none",
        ),
        Panel(
            "Recorded seconds per second, by station",
            "Audio committed for each second of time: 1 is a station that records and whose link keeps up.",
            rate_by(EFFORT, "station"),
            unit="none",
        ),
        Panel(
            "Last seen",
            "Time since the last message of each station; the alert StationSilent is at 10 minutes.",
            [
                Query(
                    "sort_desc(time() - max by (station) "
                    "(max_over_time(songstream_station_last_seen_timestamp_seconds[1d])))",
                    "{{station}}",
                )
            ],
            unit="s",
            kind="bargauge",
        ),
        Panel(
            "Sound that waits, by the stations' own pages",
            "On their disks and not committed, also of stations that reach no server; the alert SpoolFilling is at 6 hours.",
            [Query("max by (instance) (songstream_field_waiting_seconds)", "{{instance}}")],
            unit="s",
        ),
        Panel(
            "Microphones, by the stations' own pages",
            "1 while a device gives sound; the alert CaptureStopped waits 5 minutes, 10 where a device hangs.",
            [Query("min by (instance) (songstream_field_device_present)", "{{instance}}")],
            unit="none",
            width=8,
        ),
        Panel(
            "Links, by the stations' own pages",
            "1 while the server has the live stream, and while it refuses the station: the alert StationRefused.",
            [
                Query("min by (instance) (songstream_field_connected)", "{{instance}} connected"),
                Query("max by (instance) (songstream_field_refused)", "{{instance}} refused"),
            ],
            unit="none",
            width=8,
        ),
        Panel(
            "Disks, by the stations' own pages",
            "What the spool takes, and what its disk has left.",
            [
                Query("max by (instance) (songstream_field_spool_bytes)", "{{instance}} spool"),
                Query("min by (instance) (songstream_field_disk_free_bytes)", "{{instance}} free"),
            ],
            unit="bytes",
            width=8,
        ),
    ],
    span="now-24h",
)

SERVER = Board(
    "songstream-server",
    "Songstream: server",
    "How much the server has to do and how long it takes.",
    [
        Panel("Streams", "Connected audio streams.", [Query("sum by (lane) (songstream_ingest_streams)", "{{lane}}")]),
        Panel(
            "Chunks",
            "Chunks received each second, by outcome.",
            rate_by("songstream_ingest_chunks_total", "outcome"),
            unit="cps",
        ),
        Panel(
            "Delay of songs",
            "From the arrival of the chunk in which a song was decided to its event.",
            quantiles("songstream_song_latency_seconds", 0.5, 0.99),
            unit="s",
        ),
        Panel(
            "Delay of acks",
            "From the first chunk of a step that makes a checkpoint (after a song, at the latest after commit_interval_s of "
            "sound) to its ack, which waits for the commit. Chunks of the steps before it, which wait longer, are left out.",
            quantiles("songstream_ingest_ack_latency_seconds", 0.5, 0.99),
            unit="s",
        ),
        Panel("Batch", "Songs in a forward pass.", [mean("songstream_inference_batch_size")], unit="none", width=8),
        Panel(
            "Queue",
            "Songs that wait for the encoder.",
            [Query("sum(songstream_inference_pending_songs)", "waiting")],
            width=8,
        ),
        Panel(
            "Failures of the encoder",
            "Requests that the model failed on, or that nobody waited for any more, each second.",
            rate_by("songstream_inference_failures_total", "reason"),
            unit="cps",
            width=8,
        ),
        Panel(
            "Wait for the encoder",
            "From a song to its forward pass.",
            quantiles("songstream_inference_queue_seconds", 0.5, 0.99),
            unit="s",
        ),
        Panel(
            "Forward pass",
            "Duration of a forward pass.",
            quantiles("songstream_inference_compute_seconds", 0.5, 0.99),
            unit="s",
        ),
        Panel(
            "Real-time ratio of the encoder",
            "Time it computes for each second of sound that comes in; with n live streams it is busy all the time at 1 / n.",
            [
                Query(
                    "sum(rate(songstream_inference_compute_seconds_sum[$__rate_interval])) / "
                    "sum(rate(songstream_ingest_audio_seconds_total[$__rate_interval]))",
                    "ratio",
                )
            ],
            unit="none",
            width=24,
        ),
        Panel(
            "Swaps of bundles",
            "Bundles that became active or did not, in an hour, by outcome.",
            [Query("sum by (outcome) (increase(songstream_model_swaps_total[1h]))", "{{outcome}}")],
            unit="none",
            width=8,
        ),
        Panel(
            "Active bundle",
            "Time since the active bundle became so.",
            [Query("time() - max(songstream_model_active_since_timestamp_seconds)", "age")],
            unit="s",
            width=8,
        ),
        Panel(
            "Shadow",
            "Songs that a candidate was compared on, each second, by what came out.",
            rate_by("songstream_shadow_songs_total", "outcome"),
            unit="cps",
            width=8,
        ),
        Panel(
            "Commit",
            "A transaction, flushed to the disk.",
            quantiles("songstream_db_commit_seconds", 0.5, 0.99),
            unit="s",
        ),
        Panel(
            "Lag of the event loop",
            "How late it wakes; the alert EventLoopLag is at 0.1 s.",
            quantiles("songstream_event_loop_lag_seconds", 0.5, 0.99),
            unit="s",
        ),
        Panel(
            "Processor",
            "Cores in use.",
            [Query('sum(rate(process_cpu_seconds_total{job="songstream"}[$__rate_interval]))', "cores")],
            unit="none",
            width=8,
        ),
        Panel(
            "Memory",
            "Resident memory of the process.",
            [Query('sum(process_resident_memory_bytes{job="songstream"})', "resident")],
            unit="bytes",
            width=8,
        ),
        Panel(
            "Disk",
            "Free in the data directory, and the database with its log; the alert DiskLow is at 2 GiB.",
            [
                Query("min(songstream_disk_free_bytes)", "free"),
                Query("sum(songstream_db_size_bytes)", "database"),
            ],
            unit="bytes",
            width=8,
        ),
        Panel(
            "Calls by code",
            "Calls that ended, each second.",
            [
                Query(
                    "sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total[$__rate_interval]))",
                    "{{grpc_method}} {{grpc_code}}",
                )
            ],
            unit="cps",
        ),
        Panel(
            "Duration of calls",
            "The 99th percentile by method; streams are left out, which last as long as a station listens.",
            [
                Query(
                    "histogram_quantile(0.99, sum by (le, grpc_method) "
                    '(rate(grpc_server_handling_seconds_bucket{grpc_type="unary"}[$__rate_interval])))',
                    "{{grpc_method}}",
                )
            ],
            unit="s",
        ),
    ],
)

RELIABILITY = Board(
    "songstream-reliability",
    "Songstream: reliability",
    "What was lost, repeated or refused. Every second of sound is committed, declared as a gap, or still with its station.",
    [
        Panel(
            "Declared gaps",
            "Seconds of sound that stations declared lost, in each hour, by reason.",
            [
                Query(
                    "max by (reason) (increase(songstream_ingest_declared_gap_seconds_total[1h]))",
                    "{{reason}}",
                )
            ],
            unit="s",
        ),
        Panel(
            "Sound that waits on stations",
            "Unacknowledged, as the stations' heartbeats say.",
            [Query("max by (station) (songstream_station_spool_bytes)", "{{station}}")],
            unit="bytes",
        ),
        Panel(
            "Duplicate and rejected chunks",
            "In each hour. Duplicates follow reconnects and change nothing; a rejected chunk ends its stream.",
            [
                Query(
                    'sum by (outcome) (increase(songstream_ingest_chunks_total{outcome!="accepted"}[1h]))',
                    "{{outcome}}",
                )
            ],
        ),
        Panel(
            "Fences and sequence errors",
            "In each hour: streams that a newer one of their session ended, chunks out of order, and two contents under one "
            "number, which is never right: the alert SequenceReused.",
            [
                Query("sum(increase(songstream_ingest_writer_fences_total[1h]))", "fenced"),
                Query("sum by (reason) (increase(songstream_ingest_sequence_errors_total[1h]))", "{{reason}}"),
            ],
        ),
        Panel(
            "Ends of streams",
            "In each hour, by reason; docs/protocol.md explains them.",
            [Query("sum by (reason) (increase(songstream_ingest_stream_closes_total[1h]))", "{{reason}}")],
        ),
        Panel(
            "Lag of commits",
            "From capture, by the station's clock, to commit; the alert CommitLagHigh is at 60 s for the 90th percentile.",
            quantiles("songstream_ingest_commit_lag_seconds", 0.5, 0.9, 0.99),
            unit="s",
        ),
        Panel(
            "Sound in and sound committed",
            "Seconds each second: accepted from stations, and committed. Apart for long, the server cannot keep up.",
            [
                Query("sum(rate(songstream_ingest_audio_seconds_total[$__rate_interval]))", "accepted"),
                Query(f"sum(rate({EFFORT}[$__rate_interval]))", "committed"),
            ],
            unit="none",
        ),
        Panel(
            "Balance",
            "Sound accepted less sound committed, in each hour: what waits now, or came again after a broken connection. "
            "Below nought for hours, something is counted that never came.",
            [
                Query(
                    "sum(increase(songstream_ingest_audio_seconds_total[1h])) - "
                    f"max(sum by (instance) (increase({EFFORT}[1h])))",
                    "accepted less committed",
                )
            ],
            unit="s",
        ),
        Panel(
            "Sound in memory",
            "Received and not listened to yet; at `max_in_flight_mb` no further stream is taken.",
            [Query("sum(songstream_ingest_in_flight_bytes)", "in flight")],
            unit="bytes",
        ),
    ],
)

REPERTOIRE = Board(
    "songstream-repertoire",
    "Songstream: repertoire",
    "How well the repertoire of all stations is known, what people decided, and whether a retraining would pay.",
    [
        Panel(
            "Types",
            "Types heard, and how many there are at least by Chao1, with its 95 % interval.",
            [
                Query("max(songstream_repertoire_types)", "heard"),
                Query("max by (bound) (songstream_repertoire_estimated_types)", "Chao1, {{bound}}"),
            ],
            unit="none",
        ),
        Panel(
            "Coverage",
            "Estimated probability that the next song with a type is of a type heard before.",
            [Query("max(songstream_repertoire_coverage)", "coverage")],
            unit="percentunit",
        ),
        Panel(
            "Types heard once",
            "Types with a single song stored: the fewer, the better the repertoire is known.",
            [Query("max(songstream_repertoire_singletons)", "singletons")],
            unit="none",
            width=8,
        ),
        Panel(
            "Novel songs beyond false alarms",
            "Of seven days, or since the bundle was made; 15 songs and three standard deviations make a retraining due.",
            [Query("max(songstream_novel_songs_excess)", "excess")],
            unit="none",
            width=8,
        ),
        Panel(
            "Retraining due",
            "1 where a retraining would pay, by reason; the alert RetrainingDue waits half a day.",
            [Query("max by (reason) (songstream_retraining_due)", "{{reason}}")],
            unit="none",
            width=8,
        ),
        Panel(
            "Decisions",
            "What people decided about types since the data directory began.",
            [Query("max by (kind) (songstream_decisions_total)", "{{kind}}")],
            unit="none",
            width=24,
        ),
    ],
    span="now-30d",
)

BOARDS = (FIELD, SERVER, RELIABILITY, REPERTOIRE)


def main() -> int:
    """Write the files, or compare them with ``--check``; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a committed file differs")
    check = parser.parse_args().check
    wanted = {f"{board.uid}.json": json.dumps(board_json(board), indent=2) + "\n" for board in BOARDS}
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    if check:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if differing:
            print(
                f"{', '.join(differing)}: not what {Path(__file__).name} writes; run it without --check",
                file=sys.stderr,
            )
        return 1 if differing else 0
    for name in found.keys() - wanted.keys():
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
