"""The house keeps its order: what may import what, what is public, what the checkers say."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeVar

import pytest
from typed_example import main

import imagen_async
from imagen_async import errors
from imagen_async.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "imagen_async"
MODULES = sorted(PACKAGE.rglob("*.py"))

T = TypeVar("T", bound=ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)

FORBIDDEN_IN_CORE = {"asyncio", "anyio", "aiohttp", "backoff", "time", "random", "os", "logging", "threading", "socket"}

# From the foundation up: a module may import from its own line and those above it.
ORDER = (
    "_text",
    "errors",
    "_version",
    "_core",
    "_records",
    "_record_files",
    "providers",
    "_openapi",
    "models",
    "events",
    "_clock",
    "_sqlite",
    "_held_file",
    "_joint",
    "_latch",
    "_roster",
    "_home_loop",
    "_patience",
    "_watch",
    "_off_loop",
    "_handles",
    "_addresses",
    "_transport",
    "_plain_group",
    "_callbacks",
    "_scheduler",
    "_folders",
    "_decoding",
    "_part_file",
    "_downloads",
    "_accounts",
    "_input_files",
    "_uploads",
    "_job_factory",
    "_journal",
    "_single",
    "_durable",
    "_progress",
    "_notebook",
    "_batch",
    "_checked",
    "_shared",
    "_limits",
    "_opening",
    "_saving",
    "_refreshing",
    "_client",
    "ports",
    "webhooks",
    "service",
    "ray",
    "sandbox",
    "testing",
    "_cli",
    "__main__",
)


def name_of(path: Path) -> str:
    """The dotted name of a module's file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = frozenset(map(name_of, MODULES))


def imports_of(path: Path, *, but_for_types: bool = False) -> set[tuple[str, bool]]:
    """Absolute names that a module imports; True where it does so inside a function. Type checkers' own may be left."""
    package = name_of(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    tree = ast.parse(path.read_text())
    if but_for_types:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "CHECKING" in ast.dump(node.test))]
    inner = {
        id(node)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(f)
    }
    found: set[tuple[str, bool]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in inner) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            named = [(f"{module}.{alias.name}", module) for alias in node.names]
            found |= {
                (name if outer == "imagen_async" or name in NAMES else outer, id(node) in inner)
                for name, outer in named
            }
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if "_core" in path.parts], ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    """The pure part imports no loop, clock, chance, network or log."""
    assert not {name.split(".")[0] for name, _ in imports_of(path)} & FORBIDDEN_IN_CORE


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    """No module imports one that stands above it; only the client starts the sandbox, from inside a function."""
    own = name_of(path).split(".")[1:2]
    if not own:
        return
    assert own[0] in ORDER, "a new module needs its place in the order"
    for name, is_inner in imports_of(path):
        parts = name.split(".")
        if (
            parts[0] != "imagen_async"
            or len(parts) < 2
            or (own[0] == "_opening" and parts[1] == "sandbox" and is_inner)
            # The command stands outside, and takes what is public from where everybody does.
            or (own[0] == "_cli" and parts[1] in imagen_async.__all__)
        ):
            continue
        assert ORDER.index(parts[1]) <= ORDER.index(own[0]), f"{name_of(path)} imports {name}"


def test_a_rename_inside_touches_one_file_of_the_tests() -> None:
    """Each private module is imported by one file of the tests: `inner.py`, or that of its own room."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").glob("*.py")):
        for name in {name for name, _ in imports_of(path) if re.search(r"^imagen_async(\.\w+)*\._", name)}:
            found.setdefault(name, []).append(path.name)
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_what_tests_share_is_in_no_test() -> None:
    """No file of the tests imports from a test module: helpers have modules of their own."""
    paths = (ROOT / "tests").glob("*.py")
    assert [path.name for path in paths if any(name.startswith("test_") for name, _ in imports_of(path))] == []


def test_the_command_has_one_door_to_the_inside() -> None:
    """The command uses what is public; what is not comes in by one module, which is the list of it.

    But for what stands below everything, and loads nothing: without it not a word can be said.
    """
    for path in (PACKAGE / "_cli").rglob("*.py"):
        private = {name for name, _ in imports_of(path) if re.match(r"imagen_async\._(?!cli|_version__|text)", name)}
        assert not private or path.name == "library.py", f"{name_of(path)} imports {min(private)}"


def test_any_module_can_be_imported_first() -> None:
    """No module needs itself to be imported, by whatever way round; all import with warnings as errors."""
    graph = {name_of(path): needed_by(path) for path in MODULES}
    order = [name for name in TopologicalSorter(graph).static_order() if name in graph]
    assert len(order) == len(MODULES)
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    for names in (order, order[::-1]):
        subprocess.run([sys.executable, "-W", "error", "-c", code, *names], check=True, cwd=ROOT)


def needed_by(path: Path) -> set[str]:
    """The modules of ours that a module imports before it is ready."""
    return {name for name, is_late in imports_of(path, but_for_types=True) if not is_late} & NAMES


def test_the_core_alone_imports_without_the_extras() -> None:
    """What a program imports needs aiohttp, msgspec, anyio and backoff, and loads no server and no extra."""
    servers = ("imagen_async.sandbox", "imagen_async.service", "aiohttp.web")
    extras = ("rich", "PIL", "jinja2", "pyarrow", "opentelemetry", "pytest", "sqlite3", *servers)
    code = f"import imagen_async, sys; print([name for name in {extras} if name in sys.modules])"
    # Where coverage is measured, each Python that starts loads what that needs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert found.stdout.strip() == "[]"


def test_public_names_are_kept_true() -> None:
    """`__all__` is sorted, complete, and every name of it says what it is."""
    names = imagen_async.__all__
    assert names == sorted(names)
    assert set(errors.__all__) <= set(names)
    for name in names:
        assert (getattr(imagen_async, name).__doc__ or "").strip(), name
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ImagenError)
    }
    assert tree == set(errors.__all__)
    assert all(name in (errors.__doc__ or "") for name in tree)


def test_public_methods_say_what_they_do() -> None:
    """Every public method and property of a public class has a docstring."""
    for name in imagen_async.__all__:
        value = getattr(imagen_async, name)
        for attribute, member in vars(value).items() if isinstance(value, type) else ():
            if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
                assert member.__doc__, f"{name}.{attribute}"


def defined(*kinds: type[T]) -> Iterator[tuple[str, T]]:
    """Everything of these kinds, nested ones too, with its file, line and name."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kinds):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def lines_of(nodes: Sequence[ast.stmt]) -> int:
    """Lines from the first to the last of some statements."""
    return (nodes[-1].end_lineno or 0) - nodes[0].lineno + 1 if nodes else 0


def docstring_of(node: ast.AST) -> list[ast.stmt]:
    """The statement that is its docstring, if it has one."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    return node.body[:1] if ast.get_docstring(node) is not None else []


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of a class, properties included."""
    return [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]


def attributes_of(node: ast.ClassDef) -> set[str]:
    """What its methods assign on self."""
    return {
        place.attr
        for method in methods_of(node)
        for statement in ast.walk(method)
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        for place in ast.walk(target)
        if isinstance(place, ast.Attribute) and isinstance(place.ctx, ast.Store)
        if isinstance(place.value, ast.Name) and place.value.id == "self"
    }


def own_lines(path: Path) -> int:
    """Lines of a module beside its docstrings."""
    text = path.read_text()
    return len(text.splitlines()) - sum(lines_of(docstring_of(node)) for node in ast.walk(ast.parse(text)))


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
FIGURES: dict[str, tuple[int, Callable[[], Iterable[tuple[str, int]]]]] = {
    "lines of a function's body": (
        25,
        lambda: ((name, lines_of(node.body[len(docstring_of(node)) :])) for name, node in defined(*FUNCTIONS)),
    ),
    "attributes of a class": (14, lambda: ((name, len(attributes_of(node))) for name, node in defined(ast.ClassDef))),
    "methods of a class": (20, lambda: ((name, len(methods_of(node))) for name, node in defined(ast.ClassDef))),
    "lines of a module": (350, lambda: ((str(path.relative_to(ROOT)), own_lines(path)) for path in MODULES)),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_nothing_is_longer_than_can_be_seen_at_once(figure: str) -> None:
    """Docstrings left out, nothing has more than its limit: more means that waiting, deciding and parsing meet."""
    limit, count = FIGURES[figure]
    assert [f"{name}: {found}, at most {limit}" for name, found in count() if found > limit] == []


def test_no_imports_go_in_a_circle() -> None:
    """No module needs itself, by whatever way round, not even for types or inside a function."""
    graph = {name_of(path): {name for name, _ in imports_of(path)} & NAMES for path in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # The sorter names them from the imported to the importer.
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_path_of_a_machine() -> None:
    """What is shipped names no machine's folders."""
    for path in [*MODULES, *ROOT.glob("*.md"), *(ROOT / "benchmarks").rglob("*.py")]:
        assert not re.search(r"/(root|home|Users)/\w", path.read_text()), path.name


async def test_the_typed_example_runs(imagen_sandbox: Sandbox, tmp_path: Path) -> None:
    """The example that the type checker reads does what it says."""
    lines = await main(imagen_sandbox.url, imagen_sandbox.key, str(tmp_path))
    assert lines[-2:] == ["ramen", "2"]
    assert len(list(tmp_path.glob("*.png"))) == 4


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["ruff-check", "ruff-format", "mypy-strict"],
)
def test_the_checkers_agree(command: tuple[str, ...]) -> None:
    """Lint, format and strict types are part of the same run."""
    ran = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js, which pyright runs on")
def test_public_types_are_whole_for_every_checker() -> None:
    """Nothing that the public types lead to is left for a checker to guess, which each does in its own way."""
    # It looks for the packages that the first `python` of the path has.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "pyright", "--verifytypes", "imagen_async", "--ignoreexternal", "--outputjson"]
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    found = json.loads(ran.stdout)["typeCompleteness"]
    guessed = [
        f"{symbol['name']}: {said['message']}" for symbol in found["symbols"] for said in symbol.get("diagnostics", ())
    ]
    assert found["completenessScore"] == 1, "\n".join(guessed)


def test_every_module_says_what_it_is() -> None:
    """Each module opens with what it is for."""
    for path in MODULES:
        assert importlib.import_module(name_of(path)).__doc__, path.name
