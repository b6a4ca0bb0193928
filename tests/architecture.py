"""The rules of the house, read from the sources: who may import whom, how long, what never.

A rule takes the folder of a project and returns its violations as ``file:line: message``;
`test_architecture` runs each on this project, and on small made-up projects that break it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("marketing_env", "agents", "experiments")
MAY_IMPORT = {
    "marketing_env": {"marketing_env"},
    "agents": {"agents", "marketing_env"},
    "experiments": set(PACKAGES),
}
CORE_LIBRARIES = {"numpy", "gymnasium"}
# Beside the modules of `experiments.plots`.
DRAWING = {"experiments.plot", "experiments.report", "experiments.trials.one_shot_report"}
# The world itself: what a learner, who has a log and nothing else, must not see.
WORLD = {
    *("config", "presets", "users", "dynamics", "planner", "exact", "one_shot"),
    *("bcorle", "bcorle_envs", "bcorle_exact"),
}
SIMULATOR = {f"marketing_env.{name}" for name in WORLD | {"rollout", "envs", "evaluate"}}
# A module imports only modules of earlier layers; its own layer is no exception.
LAYERS = (
    {"config"},
    {"panel", "policy", "presets", "users"},
    {"dynamics", "parquet"},
    {"dataset", "planner"},
    {"exact", "export", "one_shot", "replay", "rollout"},
    {"envs", "evaluate"},
    {"bcorle"},
    {"bcorle_envs", "bcorle_exact"},
)
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.save", "pandas.read_pickle"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Rule = Callable[[Path], list[str]]


class Module(NamedTuple):
    name: str  # dotted; a package's __init__ has the package's name
    path: Path
    text: str
    tree: ast.Module

    def at(self, line: int, message: str) -> str:
        return f"{self.path}:{line}: {message}"


class Import(NamedTuple):
    target: str  # dotted and absolute, down to the imported name: "marketing_env.exact.plan"
    line: int
    lazy: bool  # inside a function
    typing: bool  # under `if TYPE_CHECKING`


# Every rule reads every file.
parsed = cache(ast.parse)


def read(root: Path, *folders: str) -> list[Module]:
    """Every module below the folders; the packages of the project by default."""
    found = []
    for path in sorted(p for f in folders or PACKAGES for p in (root / f).rglob("*.py")):
        relative = path.relative_to(root)
        parts = relative.with_suffix("").parts
        text = path.read_text(encoding="utf-8")
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, relative, text, parsed(text)))
    return found


def top(name: str) -> str:
    return name.split(".")[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def below(module: Module, matches: Callable[[ast.AST], bool]) -> set[ast.AST]:
    """All nodes inside the nodes that match."""
    tops = (node for node in ast.walk(module.tree) if matches(node))
    return {node for top in tops for node in ast.walk(top)}


def base_of(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name of what a `from ... import` imports from."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    levels_up = node.level - (module.path.name == "__init__.py")
    return ".".join([*parts[: len(parts) - levels_up], *filter(None, [node.module])])


def targets(module: Module, node: ast.Import | ast.ImportFrom) -> list[str]:
    base = f"{base_of(module, node)}." if isinstance(node, ast.ImportFrom) else ""
    return [base + alias.name for alias in node.names]


def bindings(node: ast.Import) -> dict[str, str]:
    """Local name -> package; `import a.b` binds `a`."""
    full = {alias.asname: alias.name for alias in node.names if alias.asname}
    return full | {top(alias.name): top(alias.name) for alias in node.names if not alias.asname}


@cache
def imports(module: Module) -> list[Import]:
    """What import statements name, and `package.name` for each attribute of an imported package."""
    lazy = below(module, lambda node: isinstance(node, FUNCTIONS))
    typing = below(module, is_type_checking)
    nodes = list(ast.walk(module.tree))
    statements = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    packages: dict[str, str] = {}
    for node in statements:
        packages |= bindings(node) if isinstance(node, ast.Import) else {}
    found: list[tuple[str, ast.stmt | ast.expr]] = [
        (target, node) for node in statements for target in targets(module, node)
    ]
    found += [
        (f"{package}.{node.attr}", node)
        for node in nodes
        if isinstance(node, ast.Attribute) and (package := packages.get(ast.unparse(node.value)))
    ]
    return [Import(name, at.lineno, at in lazy, at in typing) for name, at in found]


def owner(target: str, known: set[str]) -> str:
    """The module of the project that a target names or lies in; empty for a library's."""
    parts = target.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in known), "")


def needs_simulator(module: Module) -> bool:
    return any(
        isinstance(node, ast.Assign) and ast.unparse(node) == "NEEDS_SIMULATOR = True"
        for node in module.tree.body
    )


def defined(module: Module) -> set[str]:
    """Names of the classes and functions that a module makes itself."""
    return {node.name for node in module.tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))}


def packages_point_downwards(root: Path) -> list[str]:
    """experiments -> agents -> marketing_env; nothing imports experiments or tests."""
    return [
        module.at(found.line, f"{top(module.name)} imports {found.target}")
        for module in read(root)
        for found in imports(module)
        if top(found.target) in {*PACKAGES, "tests"} - MAY_IMPORT[top(module.name)]
    ]


def core_loads_two_libraries(root: Path) -> list[str]:
    """At import, marketing_env needs numpy and gymnasium; an exporter asks when it is called."""
    allowed = CORE_LIBRARIES | {"marketing_env"} | set(sys.stdlib_module_names)
    return [
        module.at(found.line, f"imports {found.target} when loaded")
        for module in read(root, "marketing_env")
        for found in imports(module)
        if not (found.lazy or found.typing or top(found.target) in allowed)
    ]


def core_is_layered(root: Path) -> list[str]:
    rank = {f"marketing_env.{name}": n for n, layer in enumerate(LAYERS) for name in layer}
    modules = read(root, "marketing_env")
    known = {module.name for module in modules}
    return [
        module.at(found.line, f"{module.name} imports {found.target} of its own or a later layer")
        for module in modules
        for found in imports(module)
        if rank.get(owner(found.target, known), -1) >= rank.get(module.name, len(LAYERS))
    ]


def methods_stand_alone(root: Path) -> list[str]:
    """A method imports no other method, and agents.common imports none at all."""
    modules = read(root, "agents")
    known = {module.name for module in modules}
    methods = {name for name in known if name.count(".") == 1} - {"agents.common"}
    return [
        module.at(found.line, f"imports the method {found.target}")
        for module in modules
        for found in imports(module)
        if module.name != "agents" and owner(found.target, known) in methods - {module.name}
    ]


def learners_see_the_log_alone(root: Path) -> list[str]:
    """No learner reaches the simulator, by its modules or by the names marketing_env exports."""
    core = [module for module in read(root, "marketing_env") if module.name in SIMULATOR]
    hidden = SIMULATOR | {f"marketing_env.{name}" for module in core for name in defined(module)}
    return [
        module.at(found.line, f"a learner imports {found.target}")
        for module in read(root, "agents")
        for found in imports(module)
        if not needs_simulator(module) and owner(found.target, hidden)
    ]


def only_plots_draw(root: Path) -> list[str]:
    return [
        module.at(found.line, f"imports {found.target}")
        for module in read(root)
        for found in imports(module)
        if top(found.target) == "matplotlib"
        and module.name not in DRAWING
        and not module.name.startswith("experiments.plots.")
    ]


def no_cycles(root: Path) -> list[str]:
    """An import inside a function counts: it hides a cycle, it does not remove it."""
    modules = read(root)
    known = {module.name for module in modules}
    graph = {
        module.name: {owner(found.target, known) for found in imports(module) if not found.typing}
        - {"", module.name}
        for module in modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["circular import: " + " <- ".join(error.args[1])]
    return []


def files_are_short(root: Path) -> list[str]:
    return [
        module.at(lines, f"{lines} lines, at most {MAX_FILE_LINES}")
        for module in read(root, *PACKAGES, "tests")
        if (lines := len(module.text.splitlines())) > MAX_FILE_LINES
    ]


def functions_are_short(root: Path) -> list[str]:
    return [
        module.at(node.lineno, f"{node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}")
        for module in read(root, *PACKAGES, "tests")
        for node in ast.walk(module.tree)
        if isinstance(node, FUNCTIONS)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def calls(module: Module) -> list[tuple[str, int]]:
    """Plain names that are called, and `pickle` where an argument allows it."""
    nodes = list(ast.walk(module.tree))
    plain = [(n.func, n.lineno) for n in nodes if isinstance(n, ast.Call)]
    keywords = [n for n in nodes if isinstance(n, ast.keyword) and n.arg == "allow_pickle"]
    return [(func.id, line) for func, line in plain if isinstance(func, ast.Name)] + [
        ("pickle", n.value.lineno) for n in keywords if ast.unparse(n.value) != "False"
    ]


def no_file_runs_code(root: Path) -> list[str]:
    """Nothing that a file could carry is executed: no pickle in any form, no eval."""
    return [
        module.at(line, f"{name} can execute what a file says")
        for module in read(root)
        for name, line in [(found.target, found.line) for found in imports(module)] + calls(module)
        if top(name) in UNSAFE_MODULES or name in UNSAFE_CALLS
    ]


RULES: tuple[Rule, ...] = (
    packages_point_downwards,
    core_loads_two_libraries,
    core_is_layered,
    methods_stand_alone,
    learners_see_the_log_alone,
    only_plots_draw,
    no_cycles,
    files_are_short,
    functions_are_short,
    no_file_runs_code,
)
