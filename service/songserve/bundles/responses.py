"""What is known of bundles as responses of `songserve.v1`."""

import json
from collections.abc import Sequence

from google.protobuf.struct_pb2 import Struct

from songcore.manifest import Manifest
from songserve.bundles.history import BundleEvent
from songserve.bundles.shadow import Shadow
from songserve.bundles.swaps import BundleView
from songserve.responses import bundle_name, duration, timestamp, type_name
from songserve.v1 import models_pb2

__all__ = ["bundle_list", "bundle_message", "event_page", "shadow_message"]

MAX_PAIRS = 20


def bundle_message(view: BundleView) -> models_pb2.ModelBundle:
    """Return a bundle as it stands."""
    entry = view.shelved
    message = models_pb2.ModelBundle(
        name=bundle_name(entry.digest),
        digest=entry.digest,
        state=models_pb2.ModelBundle.State.Value(view.state.upper()),
        etag=view.etag,
        provider=view.active.embedder.provider if view.active else "",
        active_since=timestamp(view.active_since_ms) if view.active else None,
        same_songs_as_active=view.same_songs,
        findings=[
            models_pb2.Finding(reason=finding.reason, message=finding.message, acceptable=finding.acceptable)
            for finding in view.findings
        ],
        n_song_types=entry.n_types,
    )
    if entry.manifest:
        _describe(message, entry.manifest)
    elif entry.error:
        # Nobody needs to load it to know.
        message.state = models_pb2.ModelBundle.FAILED
        del message.findings[:]
        message.findings.append(models_pb2.Finding(reason=entry.error.reason, message=str(entry.error)))
    return message


def bundle_list(views: Sequence[BundleView]) -> models_pb2.ListModelBundlesResponse:
    """Return several bundles."""
    return models_pb2.ListModelBundlesResponse(model_bundles=[bundle_message(view) for view in views])


def event_page(events: Sequence[BundleEvent], size: int) -> models_pb2.ListModelBundleEventsResponse:
    """Return a page of up to ``size`` events; one more than that says that there is another page."""
    page = events[:size]
    messages = []
    for event in page:
        detail = Struct()
        detail.update(dict(event.detail))
        messages.append(
            models_pb2.ModelBundleEvent(
                event_time=timestamp(event.time_ms),
                model_bundle=bundle_name(event.bundle),
                kind=event.kind,
                who=event.who,
                detail=detail,
            )
        )
    token = str(page[-1].seq) if len(events) > size else ""
    return models_pb2.ListModelBundleEventsResponse(events=messages, next_page_token=token)


def shadow_message(shadow: Shadow) -> models_pb2.Shadow:
    """Return a comparison."""
    tally = shadow.tally
    return models_pb2.Shadow(
        model_bundle=bundle_name(shadow.candidate.digest),
        active=bundle_name(shadow.active.digest),
        start_time=timestamp(shadow.start_ms),
        n_songs=tally.n_songs,
        n_left_out=tally.counts["left_out"],
        n_same=tally.counts["same"],
        n_by_lineage=tally.counts["by_lineage"],
        n_other=tally.counts["other"],
        n_novel_active=tally.n_novel_active,
        n_novel_candidate=tally.n_novel_candidate,
        n_novel_both=tally.n_novel_both,
        p_value_drift=tally.p_value_drift,
        p_value_shift=tally.p_value_shift,
        pairs=[
            models_pb2.TypePair(active_type=type_name(active), candidate_type=type_name(candidate), n_songs=n)
            for (active, candidate), n in tally.pairs.most_common(MAX_PAIRS)
        ],
    )


def _describe(message: models_pb2.ModelBundle, manifest: Manifest) -> None:
    message.display_name, message.created_by = manifest.name, manifest.created_by
    message.sample_rate_hz = manifest.frontend.sample_rate_hz
    message.decision_delay.CopyFrom(duration(manifest.segmenter.decision_delay_s))
    message.frontend.update(json.loads(manifest.frontend.model_dump_json()))
    message.segmenter.update(json.loads(manifest.segmenter.model_dump_json()))
    message.create_time.FromDatetime(manifest.created_at)
    message.parent = bundle_name(manifest.parent_digest) if manifest.parent_digest else ""
    message.gate.extend(
        models_pb2.GateCheck(
            name=check.name, passed=check.passed, value=check.value, bound=check.bound, detail=check.detail
        )
        for check in manifest.gate
    )
    message.lineage.extend(
        models_pb2.TypeChange(
            song_type=type_name(entry.id),
            change=entry.change,
            others=[type_name(other) for other in entry.others],
            since=bundle_name(entry.since),
            n_songs=entry.n_songs,
        )
        for entry in manifest.lineage
    )
