"""Reads Python sources, imports nothing, and says which rules of the architecture they break.

Every rule is a function from modules to problems, one line each, so that a rule can be shown to fail on a bad source.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGES = ("songcore", "songserve", "songstation", "songtrain")

# The first-party modules that a package may import besides its own, by the beginning of their names.
SIBLINGS: Mapping[str, tuple[str, ...]] = {
    "songcore": (),
    "songserve": ("songcore",),
    "songstation": (
        "songcore",
        "songserve.v1",
    ),  # the generated messages are all that a station shares with the service
    "songtrain": ("songcore",),
}

UNSAFE = {
    "pickle": "reading a pickle runs what is in it",
    "cPickle": "reading a pickle runs what is in it",
    "dill": "a pickle by another name",
    "cloudpickle": "a pickle by another name",
    "joblib": "joblib.load reads pickles",
    "shelve": "shelves are pickles",
    "marshal": "reads untrusted bytes into code",
    "torch.load": "reads pickles; keep weights as safetensors or ONNX",
    "pandas.read_pickle": "reads pickles",
    "faiss.read_index": "reads untrusted bytes; rebuild the index from its array",
    "faiss.deserialize_index": "reads untrusted bytes; rebuild the index from its array",
}
"""Names that must not be used, and why."""

CLOCK = frozenset(
    {"time.time", "time.time_ns", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today"}
    | {"datetime.date.today", "time.localtime", "time.gmtime"}
)
ENVIRONMENT = frozenset({"os.environ", "os.environb", "os.getenv"})
# With a seed these make a generator of one's own; everything else in numpy.random is one global state.
SEEDED = frozenset({"default_rng", "RandomState", "SeedSequence", "PCG64", "Philox", "MT19937", "SFC64", "PCG64DXSM"})
GENERATOR_TYPES = frozenset({"Generator", "BitGenerator"})


@dataclass(frozen=True)
class Import:
    """One imported module: its absolute dotted name as far as the sources tell, and when it is imported."""

    target: str
    line: int
    at_import_time: bool
    """Neither in a function nor under TYPE_CHECKING."""


@dataclass(frozen=True)
class Module:
    """One parsed source file."""

    name: str
    tree: ast.Module
    is_package: bool = False
    imports: tuple[Import, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """What an imported name stands for, dotted."""

    @property
    def package(self) -> str:
        """The top-level package."""
        return self.name.split(".", maxsplit=1)[0]

    @property
    def is_generated(self) -> bool:
        """Made by protoc."""
        return self.name.endswith(("_pb2", "_pb2_grpc"))


def parse_modules(sources: Mapping[str, str]) -> list[Module]:
    """Return the modules of sources by dotted name; a package's ``__init__`` is called ``package.__init__``."""
    known = {name.removesuffix(".__init__") for name in sources}
    modules = []
    for full_name, source in sources.items():
        name, tree = full_name.removesuffix(".__init__"), ast.parse(source)
        imports, names = _read_imports(tree, name, known, is_package=name != full_name)
        modules.append(Module(name, tree, name != full_name, tuple(imports), names))
    return modules


def read_tree(roots: Iterable[Path]) -> list[Module]:
    """Return every module under the roots, which hold packages."""
    sources = {}
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            sources[".".join(path.relative_to(root).with_suffix("").parts)] = path.read_text(encoding="utf-8")
    return parse_modules(sources)


def _read_imports(
    tree: ast.Module, name: str, known: set[str], *, is_package: bool
) -> tuple[list[Import], dict[str, str]]:
    imports: list[Import] = []
    names: dict[str, str] = {}
    for node, at_import_time in _statements(tree, at_import_time=True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports.append(Import(alias.name, node.lineno, at_import_time))
                bound = alias.asname or alias.name.split(".")[0]
                names[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = name.split(".")[: len(name.split(".")) - node.level + is_package]
                source = ".".join([*parents, *([source] if source else [])])
            for alias in node.names:
                target = f"{source}.{alias.name}"
                names[alias.asname or alias.name] = target
                imports.append(Import(target if target in known else source, node.lineno, at_import_time))
    return imports, names


def _statements(node: ast.AST, *, at_import_time: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        yield child, at_import_time
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _statements(child, at_import_time=False)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield statement, False
                yield from _statements(statement, at_import_time=False)
            for statement in child.orelse:
                yield statement, at_import_time
                yield from _statements(statement, at_import_time=at_import_time)
        else:
            yield from _statements(child, at_import_time=at_import_time)


def _within(name: str, parents: Iterable[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def sibling_problems(modules: Iterable[Module]) -> list[str]:
    """Return the imports of another package of ours that this one must not know."""
    return [
        f"{module.name}:{used.line} imports {used.target}, its sibling"
        for module in modules
        for used in module.imports
        if _within(used.target, PACKAGES) and not _within(used.target, (module.package, *SIBLINGS[module.package]))
    ]


def package_root_problems(modules: Iterable[Module]) -> list[str]:
    """Return the imports of a package that the module lies in, or of a top-level one: there is nothing in them."""
    return [
        f"{module.name}:{used.line} imports the package {used.target}; import the module that holds the name"
        for module in modules
        for used in module.imports
        if used.target in PACKAGES or module.name.startswith(f"{used.target}.")
    ]


def init_problems(modules: Iterable[Module]) -> list[str]:
    """Return what ``__init__`` files hold beyond a docstring and ``__all__``, or that there is no docstring."""
    problems = []
    for module in modules:
        if not module.is_package:
            continue
        if ast.get_docstring(module.tree) is None:
            problems.append(f"{module.name}/__init__.py has no docstring")
        body = module.tree.body[1:] if ast.get_docstring(module.tree) is not None else module.tree.body
        problems += [
            f"{module.name}/__init__.py:{node.lineno} holds {ast.unparse(node)[:60]!r}"
            for node in body
            if not ast.unparse(node).startswith("__all__")
        ]
    return problems


def cycle_problems(modules: Iterable[Module]) -> list[str]:
    """Return the first cycle of imports at import time, if there is one."""
    listed = list(modules)
    known = {module.name for module in listed}
    graph = {module.name: {used.target for used in module.imports if used.at_import_time} & known for module in listed}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["cycle: " + " → ".join(reversed(error.args[1]))]
    return []


def place_problems(modules: Iterable[Module], library: str, places: Iterable[str]) -> list[str]:
    """Return the imports of a library outside the modules and packages where it belongs."""
    allowed = tuple(places)
    return [
        f"{module.name}:{used.line} imports {used.target}; {library} belongs in {', '.join(allowed) or 'no module'}"
        for module in modules
        for used in module.imports
        if _within(used.target, [library]) and not _within(module.name, allowed)
    ]


def message_problems(modules: Iterable[Module], builders: Iterable[str]) -> list[str]:
    """Return where protobuf messages of ours are made outside the modules that build them."""
    allowed = tuple(builders)
    return [
        f"{module.name}:{node.lineno} builds {name}; {', '.join(allowed)} do that"
        for module in modules
        if not module.is_generated and module.name not in allowed
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        for name in _dotted_names(node.func, module)
        if name.startswith("songserve.v1.") and name.rpartition(".")[0].endswith("_pb2")
    ]


def unsafe_problems(modules: Iterable[Module]) -> list[str]:
    """Return the uses of what reads untrusted bytes as code."""
    problems = []
    for module in modules:
        uses = [(used.line, used.target) for used in module.imports]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom | ast.Attribute | ast.Name):
                uses += [(node.lineno, name) for name in _dotted_names(node, module)]
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and _is_not_false(node.value):
                problems.append(f"{module.name}:{node.lineno} allows pickles")
        problems += [
            f"{module.name}:{line} uses {name}: {reason}"
            for line, name in sorted(set(uses))
            for unsafe, reason in UNSAFE.items()
            if name == unsafe or (name.startswith(f"{unsafe}.") and "." not in unsafe)
        ]
    return problems


def ambient_problems(modules: Iterable[Module], allowed: Mapping[str, str]) -> list[str]:
    """Return the uses of the clock, the environment and global randomness outside the modules that may."""
    problems = []
    for module in modules:
        if _within(module.name, allowed) or module.is_generated:
            continue
        called = {id(node.func): node for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
        problems += [
            f"{module.name}:{getattr(node, 'lineno', 0)} uses {name}; make it an argument"
            for node in ast.walk(module.tree)
            for name in _dotted_names(node, module)
            if _is_ambient(name, called.get(id(node)))
        ]
    return problems


def _is_ambient(name: str, call: ast.Call | None) -> bool:
    if name in ENVIRONMENT:
        return True
    if call is None:  # a clock passed on, or a type in an annotation
        return False
    if name in CLOCK or name in {"uuid.uuid1", "uuid.uuid4", "os.urandom"}:
        return True
    if name.startswith("numpy.random."):
        made = name.removeprefix("numpy.random.")
        return made not in GENERATOR_TYPES and not (made in SEEDED and (call.args or call.keywords))
    if name == "random.Random":
        return not call.args
    return name.startswith(("random.", "secrets."))


def _is_not_false(value: ast.expr) -> bool:
    return not (isinstance(value, ast.Constant) and value.value is False)


def _dotted_names(node: ast.AST, module: Module) -> list[str]:
    """Return what a name, an attribute or a from-import means, dotted, as far as it begins at an import."""
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names] if node.module and not node.level else []
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in module.names:
        return []
    return [".".join([module.names[node.id], *reversed(parts)])]
