"""The mutants themselves: each is one change, every room has its tests, and what is called equivalent is still made."""

from __future__ import annotations

from fnmatch import fnmatch

from conftest import naming
from mutants import EQUIVALENT, PACKAGE, ROOMS, ROOT, chosen, compiled, mutants_of, room_of


def test_a_mutant_is_its_module_with_one_change() -> None:
    """Every mutant of a module compiles to other code than the module, and no two to the same."""
    path = PACKAGE / "_core" / "timer_queue.py"
    own = compile(path.read_text(), str(path), "exec")
    codes = [compiled(mutant) for mutant in mutants_of(path)]
    assert len(codes) == len({*codes, own}) - 1 > 15


def test_the_same_seed_makes_the_same_mutants() -> None:
    """Those of a smaller count are the first of a greater one, and another seed makes others."""
    of_the_core = ["_core/rate_limit.py"]
    assert chosen(1, 30, of_the_core)[:9] == chosen(1, 9, of_the_core) != chosen(2, 9, of_the_core)


def test_each_mutant_has_a_name_and_each_equivalent_is_one() -> None:
    """No two mutants are called alike, and a reason for one that is made no more stands for nothing."""
    names = [str(mutant) for mutant in chosen(1, 10**6)]
    assert len(names) == len(set(names)) > 2000
    assert EQUIVALENT.keys() <= set(names)
    assert all(reason.strip() for reason in EQUIVALENT.values())


def test_rooms_have_modules_and_tests() -> None:
    """Each room that is named is one of the package, the tests that it names are there, and the whole core has one."""
    modules = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    for pattern in ROOMS:
        with naming(pattern):
            (first, *_) = (module for module in modules if fnmatch(module, pattern))
            assert [test for test in room_of(first) if not (ROOT / test).exists()] == []
    core = [module for module in modules if module.startswith("_core/") and not room_of(module)]
    assert [module for module in core if mutants_of(modules[module])] == []
