"""What stands in the way of a bundle that loads and runs well: its family, its gate, its ears. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from songcore.manifest import Manifest

__all__ = ["REQUIRED", "Finding", "findings"]

REQUIRED = ("golden", "id_stability", "review", "calibration")
"""What a retrained bundle must have shown."""


@dataclass(frozen=True)
class Finding:
    """Something that stands in the way of a bundle."""

    reason: str
    message: str
    acceptable: bool = True
    """An activation may accept it."""

    def row(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def findings(
    candidate: Manifest, active: Manifest, *, known: Collection[str], family: Mapping[str, Manifest], trusted: bool
) -> list[Finding]:
    """Return what an activation would have to accept.

    ``known`` are the digests of all bundles that this server has or had, ``family`` the manifests of those it has. A
    ``trusted`` one served before, so that its gate was looked at then.
    """
    found = _family_findings(candidate, active, known, family)
    if candidate.stream.fingerprint() != active.stream.fingerprint():
        found.append(
            Finding(
                "FRONTEND_DIFFERS",
                "it has another front end, segmenter or features than the active bundle, so it may hear other songs than "
                "those that are stored",
            )
        )
    return found if trusted else found + _gate_findings(candidate)


def _family_findings(
    candidate: Manifest, active: Manifest, known: Collection[str], family: Mapping[str, Manifest]
) -> list[Finding]:
    if _descends(candidate, active, family) or _descends(active, candidate, family):
        return []
    parent = candidate.parent_digest
    if parent is None:
        what = "it was trained from nothing, so its type ids have nothing to do with those that songs are stored under"
    elif parent not in known:
        what = f"it was retrained from {parent}, which this server never had, so its type ids may mean something else"
    else:
        what = (
            f"it was retrained from {parent}, not from the active {active.digest}: both may have given one new id to "
            "different types"
        )
        return [Finding("PARENT_NOT_ACTIVE", what)]
    return [Finding("PARENT_UNKNOWN", what)]


def _descends(child: Manifest, ancestor: Manifest, family: Mapping[str, Manifest]) -> bool:
    """Whether one bundle was retrained from another, through any number of others that are there."""
    seen = set[str]()
    parent = child.parent_digest
    while parent is not None and parent not in seen:
        if parent == ancestor.digest:
            return True
        seen.add(parent)
        parent = family[parent].parent_digest if parent in family else None
    return child.digest == ancestor.digest


def _gate_findings(candidate: Manifest) -> list[Finding]:
    shown = {check.name: check for check in candidate.gate}
    missing = [name for name in REQUIRED if name not in shown]
    failed = [check for check in candidate.gate if not check.passed]
    found = []
    if missing:
        found.append(Finding("GATE_MISSING", f"its manifest does not say what it showed of {', '.join(missing)}"))
    if failed:
        told = "; ".join(
            f"{check.name} {check.value if check.value is not None else ''} where {check.bound} is expected {check.detail}"
            for check in failed
        )
        found.append(Finding("GATE_FAILED", " ".join(f"it did not pass its gate: {told}".split())))
    return found
