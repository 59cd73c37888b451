"""The one table from reasons to gRPC codes, and how a status with details is made and sent."""

from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from songcore.errors import InputError, SongError
from songserve.refusal import Refusal

__all__ = ["DOMAIN", "abort", "code_of", "internal_error"]

DOMAIN = "songstream"
QUOTED = 200
"""Characters at both ends of a long message; each takes up to 12 bytes in the trailers."""

_CODES = {
    "TOKEN_MISSING": Code.UNAUTHENTICATED,
    "TOKEN_INVALID": Code.UNAUTHENTICATED,
    "TOKEN_EXPIRED": Code.UNAUTHENTICATED,
    "CERT_INVALID": Code.UNAUTHENTICATED,
    "STATION_MISMATCH": Code.PERMISSION_DENIED,
    "STATION_DISABLED": Code.PERMISSION_DENIED,
    "ROLE_MISSING": Code.PERMISSION_DENIED,
    "METHOD_UNMAPPED": Code.PERMISSION_DENIED,
    "SESSION_UNKNOWN": Code.NOT_FOUND,
    "SONG_UNKNOWN": Code.NOT_FOUND,
    "BUNDLE_UNKNOWN": Code.NOT_FOUND,
    "CLIP_UNKNOWN": Code.NOT_FOUND,
    "NO_SHADOW": Code.NOT_FOUND,
    "RECLUSTERING_UNKNOWN": Code.NOT_FOUND,
    "RECLUSTERING_ELSEWHERE": Code.FAILED_PRECONDITION,
    "RECLUSTER_BUSY": Code.FAILED_PRECONDITION,
    "CLIP_ELSEWHERE": Code.FAILED_PRECONDITION,
    "ALREADY_ACTIVE": Code.FAILED_PRECONDITION,
    "ACTIVATION_FAILED": Code.FAILED_PRECONDITION,
    "BUNDLE_NOT_READY": Code.FAILED_PRECONDITION,
    "FRONTEND_DIFFERS": Code.FAILED_PRECONDITION,
    "NO_EARLIER_BUNDLE": Code.FAILED_PRECONDITION,
    "TYPE_UNKNOWN": Code.NOT_FOUND,
    "DECISION_UNKNOWN": Code.NOT_FOUND,
    "TYPE_NAME_TAKEN": Code.ALREADY_EXISTS,
    "TYPE_MERGED": Code.FAILED_PRECONDITION,
    "TYPE_RETIRED": Code.FAILED_PRECONDITION,
    "KIND_MISMATCH": Code.FAILED_PRECONDITION,
    "DECISION_UNDONE": Code.FAILED_PRECONDITION,
    "UNDO_INVALID": Code.FAILED_PRECONDITION,
    "DECISION_LEARNED": Code.FAILED_PRECONDITION,
    "DECISION_NEEDED": Code.FAILED_PRECONDITION,
    "FORMAT_CHANGED": Code.FAILED_PRECONDITION,
    "SESSION_FINISHED": Code.FAILED_PRECONDITION,
    "SEQUENCE_REUSED": Code.FAILED_PRECONDITION,
    "SEQUENCE_GAP": Code.OUT_OF_RANGE,
    "SPLIT_FOREIGN": Code.FAILED_PRECONDITION,
    "SPLIT_ALL": Code.FAILED_PRECONDITION,
    "WRITER_FENCED": Code.ABORTED,
    "ETAG_MISMATCH": Code.ABORTED,
    "SWAP_RUNNING": Code.ABORTED,
    "STREAM_LIMIT": Code.RESOURCE_EXHAUSTED,
    "SESSION_LIMIT": Code.RESOURCE_EXHAUSTED,
    "MESSAGE_TOO_LARGE": Code.RESOURCE_EXHAUSTED,
    "DISK_LOW": Code.RESOURCE_EXHAUSTED,
    "DRAINING": Code.UNAVAILABLE,
    "LEASE_EXPIRED": Code.UNAVAILABLE,
    "OVERLOADED": Code.UNAVAILABLE,
    "STORE_UNAVAILABLE": Code.UNAVAILABLE,
    "SETUP_TIMEOUT": Code.DEADLINE_EXCEEDED,
    "IDLE": Code.DEADLINE_EXCEEDED,
    "STORE_CORRUPT": Code.DATA_LOSS,
    "INTERNAL": Code.INTERNAL,
}
"""Every other reason of a Refusal or InputError is about the request: INVALID_ARGUMENT."""

_RETRY_AFTER_S = {
    "DRAINING": 1,
    "SWAP_RUNNING": 2,
    "OVERLOADED": 5,
    "STORE_UNAVAILABLE": 5,
    "STREAM_LIMIT": 10,
    "DISK_LOW": 60,
    "SESSION_LIMIT": 60,
}


def code_of(error: SongError) -> int:
    """Return the gRPC code of an error, as its number."""
    by_default = Code.INVALID_ARGUMENT if isinstance(error, Refusal | InputError) else Code.INTERNAL
    return int(_CODES.get(error.reason, by_default))


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: SongError) -> NoReturn:
    """End the call with the error's code, message, ErrorInfo and, where waiting helps, RetryInfo."""
    metadata = error.metadata if isinstance(error, Refusal) else {}
    details = [_packed(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))]
    if error.reason in _RETRY_AFTER_S:
        details.append(_packed(RetryInfo(retry_delay=Duration(seconds=_RETRY_AFTER_S[error.reason]))))
    message = _shortened(str(error))
    status = rpc_status.to_status(Status(code=code_of(error), message=message, details=details))
    await context.abort(status.code, status.details, status.trailing_metadata)


def internal_error(error: BaseException) -> Refusal:
    """Return what a caller is told about a fault of ours; the log has the rest."""
    return Refusal(f"a fault of the server ({type(error).__name__}); its log has the details", reason="INTERNAL")


def _shortened(message: str) -> str:
    """Return a message that fits into the trailers that clients take, 8 KiB and less, though it may quote a long request."""
    return message if len(message) <= 2 * QUOTED else f"{message[:QUOTED]} … {message[-QUOTED:]}"


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
