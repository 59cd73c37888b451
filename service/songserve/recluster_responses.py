"""Reclusterings as messages."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from songserve.reclusterings import Reclustering
from songserve.v1 import recluster_pb2

__all__ = ["PREFIX", "reclustering_list", "reclustering_message"]

PREFIX = "reclusterings/"
_MODE_NUMBERS = {"quick": recluster_pb2.RECLUSTER_MODE_QUICK, "full": recluster_pb2.RECLUSTER_MODE_FULL}


def reclustering_list(found: Iterable[Reclustering]) -> recluster_pb2.ListReclusteringsResponse:
    """Return the message of several runs."""
    return recluster_pb2.ListReclusteringsResponse(reclusterings=[reclustering_message(one) for one in found])


def reclustering_message(found: Reclustering) -> recluster_pb2.Reclustering:
    """Return the message of a run."""
    order, state = found.order, found.state
    facts = Struct()
    facts.update(dict(state.get("facts") or {}))
    return recluster_pb2.Reclustering(
        name=f"{PREFIX}{found.run}",
        mode=_MODE_NUMBERS.get(order["mode"], recluster_pb2.RECLUSTER_MODE_UNSPECIFIED),
        state=recluster_pb2.ReclusterState.Value(f"RECLUSTER_STATE_{state['state']}"),
        done=found.is_done,
        stage=state.get("stage") or "",
        n_stages_done=state.get("n_done") or 0,
        n_stages=state.get("n_stages") or 0,
        create_time=_timestamp(order["created_at"]),
        update_time=_timestamp(state["updated_at"]),
        model_bundle=f"modelBundles/{order['bundle']}" if order.get("bundle") else "",
        candidate=f"modelBundles/{state['candidate']}" if state.get("candidate") else "",
        outcome=state.get("outcome") or "",
        error_reason=state.get("reason") or "",
        error_message=state.get("message") or "",
        facts=facts,
    )


def _timestamp(text: Any) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromisoformat(str(text)).astimezone(UTC))
    return stamp
