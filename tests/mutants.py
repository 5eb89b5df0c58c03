"""Do the tests notice? `python -m tests.mutants` changes one thing of a module at a time, and runs its room's tests.

A mutant dies if a test fails, or never ends. One that lives is a fault that nobody would notice: it needs a test, or a
reason in `EQUIVALENT`. Which mutants are made depends on the seed and on the code alone, and not on other code: each
candidate has a number of its own, and the lowest are taken. Nothing is written to the package: a mutant is compiled as
its module is imported, in a process of its own.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from fnmatch import fnmatch
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "imagen_async"

ROOMS = {
    "_core/rate_limit.py": "rate_limit",
    "_core/limiter.py": "limiter",
    "_core/shared_limits.py": "shared_limits shared_file",
    "_core/leased_places.py": "shared_limits shared_file",
    "_core/latency.py": "latency poll_schedule",
    "_core/poll_schedule.py": "poll_schedule",
    "_core/forecast.py": "forecast",
    "_core/poll_queue.py": "poll_queue",
    "_core/outlook.py": "poll_queue",
    "_core/watched.py": "poll_queue",
    "_core/late_questions.py": "poll_queue",
    "_core/spare_places.py": "spare_places poll_queue",
    "_core/callback_reliability.py": "callback_reliability poll_queue",
    "_core/callers.py": "callers turns",
    "_core/submit_queue.py": "submit_queue turns",
    "_core/ways.py": "submit_queue turns",
    "_core/readiness.py": "submit_queue",
    "_core/shortage.py": "submit_queue",
    "_core/purses.py": "submit_queue",
    "_core/agenda.py": "agenda",
    "_core/rounds.py": "agenda submit_queue",
    "_core/live_jobs.py": "live_jobs",
    "_core/timer_queue.py": "timer_queue",
    "_core/routing.py": "routing",
    "_core/budget.py": "budget",
    "_core/failure.py": "failure",
    "_core/wording.py": "failure",
    "_core/callbacks.py": "callbacks",
    "_core/callback_bodies.py": "callbacks",
    "_core/wire.py": "dialects",
    "_core/mask.py": "origin",
    "_core/origin.py": "origin",
    "_core/answer_headers.py": "origin",
    "_core/forgiving_json.py": "dialects",
    "_core/task_ids.py": "dialects callbacks",
    "_core/field_names.py": "dialects",
    "_core/file_names.py": "file_names",
    "_core/dialect.py": "dialects",
    "_core/fields.py": "fields providers",
    "_core/defaults.py": "identity fields",
    "_core/identity.py": "identity",
    "_core/model.py": "providers",
    "_core/parameters.py": "providers",
    "_core/plain_text.py": "providers",
    "_core/plain_values.py": "plain_values",
    "_core/provider.py": "providers",
    "_core/suggestion.py": "providers",
    "_core/values.py": "fields providers",
    "_core/journal_entry.py": "journal_entry",
    "_core/resuming.py": "journal_entry",
    "_core/run_clock.py": "run_clock batch_journal",
    "_text.py": "one_line plain_values failure",
    "_journal/writer.py": "journal_writer",
    "_journal/groups.py": "journal_writer journal",
    "_journal/untold.py": "journal_writer",
    "_journal/batch_journal.py": "batch_journal",
    "_journal/callbacks.py": "batch_journal",
    "_clock.py": "batch_journal",
    "_journal/clock.py": "batch_journal",
    "_held_file.py": "journal roster",
    "_sqlite.py": "journal",
    "_joint.py": "joint journal shared_file",
    "_roster.py": "roster shared_file",
    "_shared/*.py": "shared_file shared_window",
    "_journal/resume.py": "batch_journal",
    "_folders.py": "batch_journal journal",
    "_callbacks.py": "callbacks",
    "_job_factory.py": "fields",
    "_single.py": "single",
    "_durable.py": "single_journal durable",
    "_scheduler/leasing.py": "limiter",
    "_core/file_kinds/*.py": "file_kinds",
    "service/_figures.py": "service_figures",
    "service/_metrics.py": "service_metrics",
    "_core/naming.py": "served_dialect served_plan",
    "_core/dialects/served.py": "served_dialect",
    "_core/dialects/*.py": "dialects providers",
    "_core/*.py": "machine awaiting_callback plan budget pool_plan plan_machine",
    "_scheduler/*.py": "single scheduler batch pool callback_flow limiter",
    "_batch/*.py": "tally batch pool callback_flow",
    "_journal/ahead.py": "read_ahead",
    "_journal/shared.py": "job_store durable",
    "_journal/singles.py": "single_journal durable",
    "_journal/*.py": "batch_journal job_store journal old_journals",
}
"""The first pattern that a module fits names the tests of its room, the quickest first."""

EQUIVALENT: dict[str, str] = json.loads((ROOT / "tests" / "data" / "equivalent.json").read_text())
"""Mutants that no test can tell from the module itself, each with the reason."""

PAIRS: list[tuple[type[ast.AST], type[ast.AST]]] = [
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)),
    *((ast.And, ast.Or), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitOr, ast.BitAnd)),
]
SWAPPED = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}
RENAMED = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """One change of one place.

    Attributes:
        module: The module's path inside the package.
        place: The name of the function, what stands there, what would; and which one of several that are alike.
        node: How many nodes of the tree come before the one that is changed.
        change: Which of the changes that this node has.
    """

    module: str
    place: str
    node: int
    change: int

    def __str__(self) -> str:
        return f"{self.module}: {self.place}"


# ------------------------------------------------------------------------------------------------ what can be changed


def changes_of(node: ast.AST) -> list[ast.AST]:
    """What could stand in a node's place."""
    match node:
        case ast.Compare(ops=ops):
            return [_with(node, ops=[*ops[:n], SWAPPED[type(op)](), *ops[n + 1 :]]) for n, op in enumerate(ops)]
        case ast.BoolOp(op=op):
            return [_with(node, op=SWAPPED[type(op)]())]
        case ast.BinOp(op=op, left=left, right=right) if type(op) in SWAPPED and not _is_text(left, right):
            return [_with(node, op=SWAPPED[type(op)]())]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return [operand]
        case ast.Constant(value=bool() as value):
            return [_with(node, value=not value)]
        case ast.Constant(value=int() | float() as value):
            return [_with(node, value=value + 1)]
        case ast.Call(func=ast.Name(id=name)) if name in RENAMED:
            return [_with(node, func=ast.Name(RENAMED[name], ast.Load()))]
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if not _is_changed_itself(test):
            return [_with(node, test=ast.UnaryOp(ast.Not(), test))]
        case ast.match_case(guard=ast.expr()):
            return [_with(node, guard=None)]
        case ast.comprehension(ifs=[_, *_]):
            return [_with(node, ifs=[])]
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign():
            return [ast.Pass()]
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return [ast.Pass()]
    return []


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_text(*sides: ast.expr) -> bool:
    return any(isinstance(each, ast.JoinedStr) or isinstance(getattr(each, "value", None), str) for each in sides)


def _is_changed_itself(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare | ast.BoolOp) or (
        isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    )


def _places(tree: ast.Module) -> Iterator[tuple[int, str, ast.AST]]:
    """Every node inside a function with its number and the function's name: what stands outside is data, not logic."""
    numbers = {id(node): number for number, node in enumerate(ast.walk(tree))}

    def inside(node: ast.AST, name: str, *, is_body: bool) -> Iterator[tuple[int, str, ast.AST]]:
        match node:
            case ast.ClassDef(name=own, body=body):
                for each in body:
                    yield from inside(each, f"{name}.{own}" if name else own, is_body=False)
            case ast.FunctionDef(name=own, body=body) | ast.AsyncFunctionDef(name=own, body=body):
                for each in body:
                    yield from inside(each, f"{name}.{own}" if name else own, is_body=True)
            case ast.AnnAssign(value=value) if is_body and value is not None:
                yield from inside(value, name, is_body=True)
            case ast.AnnAssign() | ast.arguments():
                return
            case _ if is_body or isinstance(node, ast.Module):
                if is_body:
                    yield numbers[id(node)], name, node
                for child in ast.iter_child_nodes(node):
                    yield from inside(child, name, is_body=is_body)

    yield from inside(tree, "", is_body=False)


def mutants_of(path: Path) -> list[Mutant]:
    """Every mutant of a module."""
    source = path.read_text()
    module, seen, found = str(path.relative_to(PACKAGE)), Counter[str](), []
    for number, name, node in _places(ast.parse(source)):
        for choice, changed in enumerate(changes_of(node)):
            place = f"{name}: {_short(node)} -> {_short(changed)}"
            seen[place] += 1
            again = f" (#{seen[place]})" if seen[place] > 1 else ""
            found.append(Mutant(module, place + again, number, choice))
    return found


def _short(node: ast.AST) -> str:
    """The code of a node, without what hangs below a statement."""
    match node:
        case ast.If(test=test) | ast.While(test=test):
            return f"if {ast.unparse(test)}"
        case ast.match_case(pattern=pattern, guard=guard):
            return f"case {ast.unparse(pattern)}" + (f" if {ast.unparse(guard)}" if guard else "")
        case ast.comprehension():
            return ast.unparse(node).strip()
    return ast.unparse(node)


def chosen(seed: int, count: int, only: Sequence[str] = ()) -> list[Mutant]:
    """So many of all mutants: those with the lowest numbers of this seed."""
    modules = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
    wanted = [name for name in modules if not only or any(fnmatch(name, pattern) for pattern in only)]
    found = [mutant for name in wanted if room_of(name) for mutant in mutants_of(modules[name])]
    return sorted(found, key=lambda each: hashlib.sha256(f"{seed} {each}".encode()).digest())[:count]


# ------------------------------------------------------------------------------------------- a mutant as it is imported


class MutantImporter(MetaPathFinder, Loader):
    """Imports one module of the package changed, and leaves all others to those who come next."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        parts = Path(mutant.module).with_suffix("").parts
        self._name = ".".join(["imagen_async", *(parts[:-1] if parts[-1] == "__init__" else parts)])

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        """The changed module, if it is this one."""
        spec = PathFinder.find_spec(fullname, path) if fullname == self._name else None
        if spec is not None:
            spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Run it."""
        exec(compiled(self._mutant), module.__dict__)


def compiled(mutant: Mutant) -> CodeType:
    """The module's code with the one change in it."""
    path = PACKAGE / mutant.module
    tree = ast.parse(path.read_text())
    target = next(node for number, node in enumerate(ast.walk(tree)) if number == mutant.node)
    changed = ast.copy_location(changes_of(target)[mutant.change], target)
    return compile(ast.fix_missing_locations(_Replaced(target, changed).visit(tree)), str(path), "exec")


class _Replaced(ast.NodeTransformer):
    def __init__(self, target: ast.AST, changed: ast.AST) -> None:
        self._target = target
        self._changed = changed

    def visit(self, node: ast.AST) -> ast.AST:
        return self._changed if node is self._target else self.generic_visit(node)


# ---------------------------------------------------------------------------------------------------- trying them out


def room_of(module: str) -> tuple[str, ...]:
    """The tests of a module's room, as files; none for a module that is not tried."""
    names = next((names for pattern, names in ROOMS.items() if fnmatch(module, pattern)), "")
    return tuple(f"tests/test_{name}.py" for name in names.split())


def start(tests: Iterable[str], mutant: Mutant | None, output: Path) -> int:
    """Run a room's tests in a process of their own, with a mutant or without; its number."""
    if child := os.fork():
        return child
    status = 99
    try:
        os.setpgid(0, 0)
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        import pytest

        if mutant is not None:
            sys.meta_path.insert(0, MutantImporter(mutant))
        # What is imported before pytest begins has asserts that it cannot rewrite: none of them is a test's.
        options = ["-xq", "-n0", "-mnot slow", "-pno:cacheprovider", "-Wignore::pytest.PytestAssertRewriteWarning"]
        options.append("--hypothesis-profile=mutants")
        status = int(pytest.main([*options, *tests]))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class Trial(NamedTuple):
    """A mutant's process, since when it runs, for how long it may, and where its words are."""

    mutant: Mutant | None
    tests: tuple[str, ...]
    began: float
    patience: float
    output: Path


class Trials:
    """Runs several at a time.

    Attributes:
        usual: How long the tests of each room take without a mutant, in seconds.
    """

    def __init__(self, jobs: int, folder: Path) -> None:
        self._jobs = jobs
        self._folder = folder
        self._running: dict[int, Trial] = {}
        self.usual: dict[tuple[str, ...], float] = {}

    def run(
        self, mutants: Iterable[Mutant | None], rooms: Iterable[tuple[str, ...]]
    ) -> Iterator[tuple[Trial, int, float]]:
        """Each trial with how it exited and how long it took; -1 where it did not come to an end."""
        for number, (mutant, tests) in enumerate(zip(mutants, rooms, strict=True)):
            if len(self._running) == self._jobs:
                yield self._next()
            patience = 10 + 4 * self.usual.get(tests, 60.0)
            output = self._folder / f"{number}.txt"
            self._running[start(tests, mutant, output)] = Trial(mutant, tests, time.monotonic(), patience, output)
        while self._running:
            yield self._next()

    def _next(self) -> tuple[Trial, int, float]:
        while True:
            for process, trial in self._running.items():
                ended, status = os.waitpid(process, os.WNOHANG)
                took = time.monotonic() - trial.began
                if ended or took > trial.patience:
                    del self._running[process]
                    return trial, os.waitstatus_to_exitcode(status) if ended else _killed(process), took
            time.sleep(0.02)


def _killed(process: int) -> int:
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return -1


def main() -> int:
    """Make mutants, say which live, and how long it took; 1 where one lives that is not known to be equivalent."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300, help="how many mutants (300)")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="modules, such as _core/rate_limit.py")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="say which would be made, and try none")
    given = parser.parse_args()
    os.chdir(ROOT)
    mutants = chosen(given.seed, given.count, given.only)
    if given.list:
        print(*mutants, sep="\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return report(mutants, Trials(given.jobs, Path(folder)))


def report(mutants: list[Mutant], trials: Trials) -> int:
    """Try them all, and say what came of it."""
    began = time.monotonic()
    # What every trial needs is imported once, before they begin.
    for name in ("aiohttp.web", "hypothesis", "pytest"):
        importlib.import_module(name)
    rooms = sorted({room_of(mutant.module) for mutant in mutants})
    for trial, status, took in trials.run([None] * len(rooms), rooms):
        if status:
            print(trial.output.read_text(), f"Without a mutant these fail already: {' '.join(trial.tests)}", sep="\n")
            return 1
        trials.usual[trial.tests] = took
    known = [mutant for mutant in mutants if str(mutant) in EQUIVALENT]
    tried = [mutant for mutant in mutants if str(mutant) not in EQUIVALENT]
    alive, endless = [], 0
    for trial, status, _ in trials.run(tried, [room_of(mutant.module) for mutant in tried]):
        if status == 0:
            alive.append(trial.mutant)
            print("ALIVE", trial.mutant, flush=True)
        elif status == -1:
            endless += 1
        elif status not in (1, 2, 4):
            print(trial.output.read_text()[-2000:], f"{trial.mutant}: pytest ended with {status}", sep="\n")
    counts = f"{len(tried) - len(alive)} dead ({endless} never ended), {len(known)} equivalent, {len(alive)} alive"
    print(f"{len(mutants)} mutants: {counts}; {(time.monotonic() - began) / 60:.1f} min")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main())
