"""The arrows of the house, read off every import statement of the four packages.

    orchestration -> rollout, learner, reward        learner -> rollout.draw        nothing else

and pure logic imports neither Ray nor vLLM nor DeepSpeed, also not through another module.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("rollout", "learner", "reward", "orchestration")
ARROWS = {
    "orchestration": ("rollout", "learner", "reward"),
    "learner": ("rollout.draw",),
    "rollout": (),
    "reward": (),
}
HEAVY = ("ray", "vllm", "deepspeed")
# Everything that is tested in milliseconds and runs in the simulator. A folder stands for all its modules.
PURE = (
    "rollout.draw",
    "rollout.messages",
    "rollout.strategies",
    "learner.messages",
    "learner.objective",
    "reward.messages",
    "orchestration.scheduler",
    "orchestration.events",
    "orchestration.actions",
    "orchestration.config",
)


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module of the four packages under `root`."""
    found = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(name: str, file: Path) -> Iterator[tuple[str, bool]]:
    """Everything a module imports, as (dotted name, whether it happens when the module is imported).

    `from a import b` is a.b, whether b is a module or a name in one.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside_functions = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        at_import = node not in inside_functions
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{source}.{alias.name}", at_import


def is_in(name: str, tree: str) -> bool:
    return name == tree or name.startswith(f"{tree}.")


def broken_arrows(root: Path) -> list[str]:
    """Every import from one of the four packages into another that no arrow allows."""
    found = modules(root)
    broken = set()
    for name, file in found.items():
        own = name.partition(".")[0]
        for imported, _ in imports(name, file):
            other = imported.partition(".")[0]
            if other not in PACKAGES or other == own:
                continue
            if not any(is_in(imported, arrow) for arrow in ARROWS[own]):
                broken.add(f"{name} imports {imported}")
    return sorted(broken)


def heavy_imports(root: Path, pure: tuple[str, ...]) -> list[str]:
    """Every chain of module-level imports that leads from a pure module to a heavy library."""
    found = modules(root)
    chains = []
    for start in found:
        if not any(is_in(start, tree) for tree in pure):
            continue
        waiting, seen = [(start,)], {start}
        while waiting:
            chain = waiting.pop()
            for imported, at_import in imports(chain[-1], found[chain[-1]]):
                # A heavy import inside a function of the pure module itself is one too many as well.
                if imported.partition(".")[0] in HEAVY and (at_import or len(chain) == 1):
                    chains.append(" -> ".join((*chain, imported)))
                if at_import:
                    for module in _imported_modules(imported, found):
                        if module not in seen:
                            seen.add(module)
                            waiting.append((*chain, module))
    return chains


def _imported_modules(name: str, found: dict[str, Path]) -> list[str]:
    """Importing a.b.c runs a, a.b and a.b.c, as far as they are modules of ours."""
    parts = name.split(".")
    return [prefix for prefix in (".".join(parts[: n + 1]) for n in range(len(parts))) if prefix in found]


def test_the_packages_keep_to_the_arrows():
    """Only orchestration sees the services, and of another service the learner sees rollout.draw alone."""
    assert broken_arrows(ROOT) == []


def test_pure_logic_stays_light():
    """Scheduler, objective, draw and messages import without Ray, vLLM and DeepSpeed."""
    assert heavy_imports(ROOT, PURE) == []


def test_every_pure_module_exists():
    """A renamed module does not slip out of the rule."""
    found = modules(ROOT)
    assert [tree for tree in PURE if tree not in found] == []


@pytest.fixture
def house(tmp_path):
    """A small house with one module per package; `house(path, code)` writes another."""

    def write(path: str, code: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
        return tmp_path

    for package in (*PACKAGES, "rollout/draw"):
        write(f"{package}/__init__.py", "")
    return write


@pytest.mark.parametrize(
    ("path", "code", "broken"),
    [
        ("rollout/a.py", "import learner", "rollout.a imports learner"),
        ("rollout/a.py", "import orchestration.errors", "rollout.a imports orchestration.errors"),
        ("reward/a.py", "from rollout.draw import temperature", "reward.a imports rollout.draw.temperature"),
        ("learner/a.py", "from rollout.messages import Rollout", "learner.a imports rollout.messages.Rollout"),
        ("learner/a.py", "from rollout import messages", "learner.a imports rollout.messages"),
        ("learner/a.py", "from rollout import draw, messages", "learner.a imports rollout.messages"),
        ("learner/a.py", "import rollout.drawing", "learner.a imports rollout.drawing"),
        ("learner/a.py", "def late():\n    from reward import service", "learner.a imports reward.service"),
        ("learner/deep/a.py", "if True:\n    import reward.messages", "learner.deep.a imports reward.messages"),
    ],
)
def test_a_forbidden_arrow_is_found(house, path, code, broken):
    """An import against the rule is named, wherever in the file it stands."""
    assert broken in broken_arrows(house(path, code))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("orchestration/a.py", "import rollout.worker\nfrom learner.messages import TrainBatch\nimport reward"),
        ("learner/a.py", "from rollout.draw.distribution import entropy"),
        ("learner/a.py", "from rollout import draw"),
        ("learner/a.py", "from . import messages\nfrom .deep import b\nimport learners, rewarding"),
    ],
)
def test_an_allowed_arrow_passes(house, path, code):
    """The rule's own arrows, and a package's imports of itself, are no violation."""
    assert broken_arrows(house(path, code)) == []


def test_a_heavy_import_is_found_through_another_module(house):
    """Pure logic that imports a module that imports Ray is not pure, and the chain says why."""
    house("orchestration/scheduler.py", "from orchestration import clock")
    root = house("orchestration/clock.py", "import ray")
    assert heavy_imports(root, ("orchestration.scheduler",)) == [
        "orchestration.scheduler -> orchestration.clock -> ray"
    ]


def test_a_heavy_import_is_found_in_a_function(house):
    """A pure module does not hide Ray inside a function; what it uses may."""
    house("orchestration/scheduler.py", "def plan():\n    import ray.util\n\nfrom orchestration import clock")
    root = house("orchestration/clock.py", "def now():\n    import vllm\n    import rays")
    assert heavy_imports(root, ("orchestration.scheduler",)) == ["orchestration.scheduler -> ray.util"]
