"""The rules of the architecture, read from the imports and names of every source file; and the reader can fail."""

import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

from import_rules import (
    Module,
    ambient_problems,
    cycle_problems,
    init_problems,
    message_problems,
    package_root_problems,
    parse_modules,
    place_problems,
    read_tree,
    sibling_problems,
    unsafe_problems,
)

ROOT = Path(__file__).parents[2]

# Where each heavy or remote library may be imported, at the top or inside a function. To extend: add the module and why.
PLACES: dict[str, dict[str, str]] = {
    "torch": {"songtrain": "training is the only package that needs gradients"},
    "transformers": {"songtrain": "encoders"},
    "pytorch_metric_learning": {"songtrain": "losses"},
    "librosa": {"songtrain": "an independent reference; the product has its own front end"},
    "sklearn": {"songtrain": "clustering and scores"},
    "ray": {
        "songtrain.archive.tasks": "a task per shard",
        "songtrain.cluster": "starts or joins Ray",
        "songtrain.datasets.distributed": "features by Ray Data",
        "songtrain.lab.sweep": "sweeps by Ray Tune",
        "songtrain.lab.tasks": "two tasks per system and seed",
        "songtrain.loop.distributed": "the loop on Ray Train",
    },
    "onnxruntime": {"songcore.embed": "the only runner of encoders"},
    "faiss": {"songcore.assign": "nearest prototypes and neighbours", "songtrain": "neighbours among all songs"},
    "grpc": {
        "songserve.v1": "generated",
        "songserve.clients": "asks a server",
        "songserve.server": "the port",
        "songserve.servicers": "adapters from calls to the domain",
        "songserve.status": "reasons to codes",
        "songserve.call_context": "what methods know of their calls",
        "songserve.rpc_metrics": "counts calls",
        "songserve.security.guard": "lets calls in",
        "songserve.security.tls": "certificates of the port",
        "songstation.channel": "the connection to the server",
        "songstation.link": "the station's end of the wire",
        "songstation.endings": "how calls end",
    },
    "sounddevice": {"songstation": "the microphone"},
    "sqlalchemy": {"songserve": "the store", "songtrain.recluster.snapshot": "reads a store"},
    "alembic": {"songserve.migrations": "brings older tables up to date"},
}

# Who may read the clock, the environment or a global random state. To extend: add the module and why.
AMBIENT = {
    "songcore.cli": "the command line",
    "songserve.commands": "the command line",
    "songstation.commands": "the command line",
    "songtrain.commands": "the command line",
    "songserve.settings": "reads SONGSTREAM_*",
    "songserve.database": "gives a new store and a new directory names of their own",
    "songserve.migrations": "gives an older store a name of its own",
    "songserve.reclusterings": "hands its environment on to a process",
}

# Who makes protobuf messages: the modules for it on each side of the wire.
BUILDERS = [
    "songserve.responses",
    "songserve.catalogue_responses",
    "songserve.ingest_responses",
    "songserve.bundles.responses",
    "songserve.bundles.retypings",
    "songserve.clients.bundles",
    "songserve.recluster_responses",
    "songserve.clients.catalogue",
    "songserve.clients.songs",
    "songstation.wire",
]


@cache
def modules() -> list[Module]:
    """Return every module of the product."""
    return read_tree(ROOT / name for name in ("core", "service", "training"))


def test_the_reader_finds_the_product() -> None:
    """The four packages are read, songcore with its modules and their imports, so the rules below judge something."""
    found = {module.name: module for module in modules()}
    assert {"songcore.stream", "songserve.v1.ingest_pb2", "songstation", "songtrain"} <= set(found)
    assert "songcore.segment" in {used.target for used in found["songcore.stream"].imports}


@pytest.mark.parametrize(
    "rule", [sibling_problems, package_root_problems, init_problems, cycle_problems, unsafe_problems]
)
def test_rule_holds(rule: Callable[[Iterable[Module]], list[str]]) -> None:
    """No source file breaks the rule."""
    assert rule(modules()) == []


@pytest.mark.parametrize("library", PLACES)
def test_library_stays_in_its_place(library: str) -> None:
    """The library is imported nowhere but in the modules listed for it."""
    assert place_problems(modules(), library, PLACES[library]) == []


def test_messages_are_built_in_one_module_per_side() -> None:
    """Servicers and link pass protobuf messages on; one module of the service and one of the station make them."""
    assert message_problems(modules(), BUILDERS) == []


def test_clock_environment_and_chance_stay_at_the_edge() -> None:
    """Below the command line and the settings nothing asks for the time, the environment or a global random number."""
    assert ambient_problems(modules(), AMBIENT) == []


def test_every_ignored_type_error_has_a_reason() -> None:
    """Beside each ``type: ignore`` of the product stand the error it is for and why; generated files are not judged."""
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in ("core", "service", "training")
        for path in (ROOT / package).rglob("*.py")
        if "_pb2" not in path.name
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if "# type: ignore" in line and not re.search(r"# type: ignore\[[a-z, -]+\] +# \w", line)
    ]
    assert bare == []


def test_allowances_name_modules_that_exist() -> None:
    """No allowance outlives the module that it was made for."""
    names = {module.name for module in modules()}
    allowed = {place for places in PLACES.values() for place in places} | {*AMBIENT, *BUILDERS}
    assert {place for place in allowed if place not in names} == set()


# One bad source per rule and way to break it: module name, source, a word of the problem.
BAD: list[tuple[Callable[[list[Module]], list[str]], str, str, str]] = [
    (sibling_problems, "songcore.a", "import songserve.store", "sibling"),
    (sibling_problems, "songcore.a", "def f():\n    from songtrain.loop import run", "sibling"),
    (sibling_problems, "songserve.a", "from songstation import spool", "sibling"),
    (sibling_problems, "songtrain.a", "import songserve.v1.songs_pb2", "sibling"),
    (sibling_problems, "songstation.a", "from songserve.store import Store", "sibling"),
    (sibling_problems, "songstation.a", "from songserve import v10", "sibling"),
    (package_root_problems, "songcore.a", "import songcore", "package"),
    (package_root_problems, "songserve.a", "from songcore import SongError", "package"),
    (package_root_problems, "songcore.a", "from . import SongError", "package"),
    (package_root_problems, "songtrain.synth.a", "from songtrain.synth import NOTES", "package"),
    (init_problems, "songcore.__init__", '"""Core."""\nfrom songcore.errors import SongError', "import"),
    (init_problems, "songcore.__init__", '"""Core."""\nVERSION = 1', "VERSION"),
    (init_problems, "songcore.__init__", "__all__ = []", "docstring"),
    (unsafe_problems, "songtrain.a", "import pickle", "pickle"),
    (unsafe_problems, "songtrain.a", "def f():\n    from joblib import load", "joblib"),
    (unsafe_problems, "songtrain.a", "import torch\ntorch.load('x')", "torch.load"),
    (unsafe_problems, "songtrain.a", "from torch import load", "torch.load"),
    (unsafe_problems, "songcore.a", "import numpy as np\nnp.load('x', allow_pickle=True)", "pickles"),
    (unsafe_problems, "songcore.a", "import numpy as np\nnp.load('x', allow_pickle=flag)", "pickles"),
    (unsafe_problems, "songcore.a", "import faiss\nfaiss.read_index('x')", "faiss.read_index"),
    (lambda m: place_problems(m, "torch", ["songtrain"]), "songcore.a", "import torch.nn as nn", "torch"),
    (lambda m: place_problems(m, "ray", ["songtrain.jobs"]), "songtrain.jobsite", "from ray import data", "ray"),
    (lambda m: place_problems(m, "grpc", []), "songcore.a", "import grpc.aio", "grpc"),
    (lambda m: message_problems(m, []), "songserve.a", "from songserve.v1 import x_pb2\nx_pb2.Song(id='a')", "Song"),
    (lambda m: message_problems(m, []), "songserve.a", "from songserve.v1.x_pb2 import Song\nSong()", "Song"),
    (lambda m: ambient_problems(m, {}), "songcore.a", "import os\nx = os.environ['A']", "os.environ"),
    (lambda m: ambient_problems(m, {}), "songcore.a", "from os import getenv\nx = getenv('A')", "os.getenv"),
    (lambda m: ambient_problems(m, {}), "songcore.a", "import time\nx = time.time()", "time.time"),
    (lambda m: ambient_problems(m, {}), "songcore.a", "from datetime import datetime\nx = datetime.now()", "now"),
    (lambda m: ambient_problems(m, {}), "songcore.a", "import random\nx = random.random()", "random.random"),
    (lambda m: ambient_problems(m, {}), "songcore.a", "import numpy as np\nx = np.random.rand(3)", "numpy.random.rand"),
    (lambda m: ambient_problems(m, {}), "songcore.a", "import numpy as np\nx = np.random.default_rng()", "default_rng"),
]


@pytest.mark.parametrize(
    ("rule", "name", "source", "word"), BAD, ids=[f"{bad[1]}-{bad[3]}-{i}" for i, bad in enumerate(BAD)]
)
def test_rule_sees_a_bad_source(rule: Callable[[list[Module]], list[str]], name: str, source: str, word: str) -> None:
    """A source that breaks the rule gives one problem that names module and cause."""
    problems = rule(parse_modules({name: source, "songcore.errors": "", "songtrain.synth.notes": ""}))
    assert problems
    assert name.removesuffix(".__init__") in problems[0]
    assert word in " ".join(problems)


def test_good_sources_give_no_problem() -> None:
    """What the rules allow passes: a seeded generator, a clock passed as an argument, the generated messages, types."""
    sources = {
        "songcore.__init__": '"""Core."""\n\n__all__: list[str] = []\n',
        "songcore.a": "import numpy as np\nfrom songcore import errors\ndef f(rng: np.random.Generator): pass\n",
        "songcore.errors": "import numpy as np\nx = np.random.default_rng(1)\nnp.load('x', allow_pickle=False)\n",
        "songserve.v1.a_pb2": "",
        "songstation.a": "import time\nfrom songserve.v1 import a_pb2\ndef f(x: a_pb2.Song, now=time.time): pass\n",
    }
    good = parse_modules(sources)
    rules = (sibling_problems, package_root_problems, init_problems, cycle_problems, unsafe_problems)
    assert [problem for rule in rules for problem in rule(good)] == []
    assert ambient_problems(good, {}) == message_problems(good, []) == []


def test_cycles_are_seen_and_late_imports_are_none() -> None:
    """Two modules that import each other on top are a cycle; inside a function or for type checking they are not."""
    one = "from songcore import b\n"
    late = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import songcore.a\ndef f():\n    import songcore.a\n"
    )
    assert "songcore.a" in cycle_problems(parse_modules({"songcore.a": one, "songcore.b": "import songcore.a\n"}))[0]
    assert cycle_problems(parse_modules({"songcore.a": one, "songcore.b": late})) == []
