"""A learner's state on disk: tensors as safetensors, everything else as JSON. No pickle."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["load_state", "save_state"]

FILE = "state.safetensors"


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
