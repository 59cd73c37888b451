"""A learner's state on disk: tensors as safetensors, everything else as JSON. No pickle."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from songcore.durable import replace_file

__all__ = ["load_state", "mend_list", "save_state"]

FILE = "state.safetensors"
LIST = "checkpoint_manager_snapshot.json"
"""In which Ray keeps the checkpoints of a run."""


def save_state(folder: Path, state: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """Write a `Learner.state` and the rows of the epochs so far into ``folder``."""
    tensors: dict[str, Tensor] = {}
    for part in ("network", "proxies", "labels", "neighbours"):
        value = state[part]
        if isinstance(value, dict):
            tensors |= {f"{part}/{name}": tensor for name, tensor in value.items()}
        elif value is not None:
            tensors[part] = value
    optimizer = state["optimizer"]
    for index, slots in optimizer["state"].items():
        tensors |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items()}
    plain = {"groups": json.dumps(optimizer["param_groups"]), "history": json.dumps(history)}
    plain["format"] = json.dumps({"device": state["device"], "bfloat16": state["bfloat16"]})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FILE, metadata=plain)


def load_state(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the state and the rows that `save_state` wrote, tensors on the CPU."""
    state: dict[str, Any] = {"network": {}, "proxies": None, "labels": None, "neighbours": None}
    slots: dict[int, dict[str, Tensor]] = {}
    with safe_open(folder / FILE, framework="pt") as file:
        plain = file.metadata()
        for name in file.keys():  # noqa: SIM118 - the file is no dict
            part, _, rest = name.partition("/")
            if part == "network":
                state["network"][rest] = file.get_tensor(name)
            elif part == "optimizer":
                index, _, slot = rest.partition("/")
                slots.setdefault(int(index), {})[slot] = file.get_tensor(name)
            else:
                state[part] = file.get_tensor(name)
    state["optimizer"] = {"state": slots, "param_groups": json.loads(plain["groups"])}
    # Checkpoints of earlier versions say nothing of it.
    state |= json.loads(plain.get("format", '{"device": null, "bfloat16": false}'))
    return state, json.loads(plain["history"])


def mend_list(folder: Path, ray_version: str) -> None:
    """Let Ray go on from the newest whole checkpoint in a run's folder, from none if there is none, where it could not else.

    Ray writes its list of checkpoints in place: what is killed at that moment, or finds the disk full, leaves half a list,
    and Ray refuses a run whose list it cannot read, or names what is gone, for good.
    """
    file = folder / LIST
    if not file.exists() or _is_whole(folder):
        return
    whole = [(path, history) for path in sorted(folder.glob("checkpoint_*/")) if (history := _history(path))]
    if not whole:
        file.unlink()
        return
    path, history = whole[-1]
    newest = {
        "version": 0,
        "checkpoint_dir_name": path.name,
        "metrics": {"epoch": len(history), "loss": history[-1]["loss"]},
    }
    mended = {
        "ray_version": ray_version,
        "checkpoint_results": [newest],
        "checkpoint_report_indices": [0],
        "latest_checkpoint_result": newest,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": 1,
        **{f"{state}_checkpoint_dir_names": [] for state in ("validated", "timed_out_validation", "failed_validation")},
    }
    replace_file(file, json.dumps(mended).encode(), mode=0o644)


def _is_whole(folder: Path) -> bool:
    """Return whether Ray's list can be read, and what it names is there, the newest of it undamaged."""
    try:
        listed = json.loads((folder / LIST).read_bytes())
        names = [one["checkpoint_dir_name"] for one in listed["checkpoint_results"]]
        newest = listed["latest_checkpoint_result"]
        return all((folder / name).is_dir() for name in names) and (
            newest is None or _history(folder / newest["checkpoint_dir_name"]) is not None
        )
    except (ValueError, KeyError, TypeError):
        return False


def _history(folder: Path) -> list[dict[str, Any]] | None:
    """Return the rows of the epochs before a checkpoint; None when it is damaged."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            history: list[dict[str, Any]] = json.loads(file.metadata()["history"])
            return history
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
