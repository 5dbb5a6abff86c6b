"""Who may import whom, and what may not be written anywhere, read off the source."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("worlds", "vagen")

# What a layer may import: itself, and every layer above it in this list.
LAYERS = (
    ("vagen", "vagen.mdp", "vagen.config", "vagen.files", "vagen.progress"),
    ("vagen.cloze", "vagen.mindcube"),
    ("vagen.data",),
    ("vagen.policy",),
    ("vagen.rollout",),
    ("vagen.rl",),
    ("vagen.train", "vagen.evaluate"),
    ("vagen.export", "vagen.hub", "vagen.conversations", "vagen.spatial"),
    ("vagen.quickstart",),
    ("vagen.cli",),
)
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in SOURCES.items()}

in_every_module = pytest.mark.parametrize("module", SOURCES)


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Every module that a module imports, anywhere in its source, with the line."""
    package = module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield (submodule if submodule in SOURCES else source), node.lineno


def layer_of(module: str) -> int:
    """The layer of a module: that of its package, or its own right below ``vagen``."""
    name = ".".join(module.split(".")[:2])
    assert name in LAYER_OF, f"{name} has no layer yet: add it to LAYERS where it belongs"
    return LAYER_OF[name]


def reached(module: str) -> set[str]:
    """Everything of ours that comes along when a module is imported, as the source has it."""
    found, stack = set(), [module]
    while stack:
        name = stack.pop()
        if name not in found and name in SOURCES:
            found.add(name)
            stack += [imported for imported, _ in imports(name)]
            stack += [name.rpartition(".")[0]] if "." in name else []
    return found


def calls(module: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a name or attribute, as it is written, with the call."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_sources_were_found():
    assert {"worlds.core", "vagen.mdp", "vagen.cloze.grammar", "vagen.train.engine", "vagen.cli"} <= set(SOURCES)
    assert {"vagen.files", "vagen.mdp", "vagen.cloze.sample"} <= {name for name, _ in imports("vagen.data.shards")}


# ----------------------------------------------------------------------------------------------------------- imports


@pytest.mark.parametrize("module", [name for name in SOURCES if name.split(".")[0] == "worlds"])
def test_worlds_know_neither_models_nor_training(module):
    for name, line in imports(module):
        assert name.split(".")[0] not in ("torch", "vagen", "transformers", "deepspeed", "webdataset"), (
            f"{SOURCES[module]}:{line} imports {name}"
        )


@pytest.mark.parametrize("module", [name for name in SOURCES if name.split(".")[0] == "vagen"])
def test_imports_go_in_one_direction(module):
    for name, line in imports(module):
        if name.split(".")[0] == "vagen":
            assert layer_of(name) <= layer_of(module), (
                f"{SOURCES[module]}:{line} imports {name}, which is built on top of it"
            )


def test_no_module_imports_itself_over_others():
    graph = {module: {name for name, _ in imports(module)} - {module} for module in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


@in_every_module
def test_only_the_engine_imports_deepspeed(module):
    lines = [line for name, line in imports(module) if name.split(".")[0] == "deepspeed"]
    assert not lines or module == "vagen.train.engine", f"{SOURCES[module]}:{lines[0]} imports deepspeed"


@pytest.mark.parametrize("module", ["vagen.config", "vagen.files", "vagen.mdp", "vagen.cloze.statistics"])
def test_what_needs_no_model_needs_no_torch(module):
    """So that the command line can refuse bad input at once."""
    for name in reached(module):
        for imported, line in imports(name):
            assert imported.split(".")[0] not in ("torch", "transformers", "webdataset", "deepspeed"), (
                f"{module} comes to {SOURCES[name]}:{line}, which imports {imported}"
            )


@pytest.mark.parametrize("module", [name for name in SOURCES if name.startswith("vagen.rl")])
def test_the_mathematics_of_rl_needs_torch_and_no_model(module):
    for name, line in imports(module):
        allowed = {"torch", *PACKAGES, *sys.stdlib_module_names}
        assert name.split(".")[0] in allowed, f"{SOURCES[module]}:{line} imports {name}"


@pytest.mark.parametrize("module", [name for name in SOURCES if name.startswith("vagen.cli")])
def test_the_command_line_imports_nothing_but_itself_before_it_knows_what_to_do(module):
    at_once = [node for node in TREES[module].body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in at_once if isinstance(node, ast.ImportFrom)}
    own = {name for name in names if name == "vagen" or name.startswith("vagen.cli")}  # imported to get here, or light
    assert all(name.split(".")[0] in sys.stdlib_module_names for name in names - own), names


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[\[<>=;\s]", requirement)[0].lower() for requirement in project["dependencies"]}
    distributions = {"PIL": "pillow", "yaml": "pyyaml", "huggingface_hub": "huggingface-hub"}
    needed: dict[str, str] = {}
    for module, path in SOURCES.items():
        for name, line in imports(module):
            top = "tensorboard" if name.startswith("torch.utils.tensorboard") else name.split(".")[0]
            if top not in (*PACKAGES, "__future__") and top not in sys.stdlib_module_names:
                needed.setdefault(distributions.get(top, top), f"{path}:{line}")
    missing = {name: place for name, place in needed.items() if name.lower() not in declared}
    assert not missing, f"imported, and not among the dependencies of pyproject.toml: {missing}"
    assert declared <= set(needed), f"declared, and never imported: {declared - set(needed)}"


# ------------------------------------------------------------------------------------------------------------ source


@in_every_module
def test_no_error_is_swallowed_unseen(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = [ast.unparse(kind) if kind else "everything" for kind in caught]
            assert not {"everything", "Exception", "BaseException"} & set(names), (
                f"{SOURCES[module]}:{node.lineno} catches {', '.join(names)}: name the errors that are expected"
            )
    for name, call in calls(module):
        if name.endswith("suppress"):
            assert not {"Exception", "BaseException"} & set(map(ast.unparse, call.args)), (
                f"{SOURCES[module]}:{call.lineno} suppresses everything"
            )


@in_every_module
def test_nothing_is_unpickled_or_evaluated(module):
    """What comes from elsewhere is read as JSON, YAML or safetensors, which run no code."""
    forbidden = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    for name, line in imports(module):
        assert name.split(".")[0] not in forbidden, f"{SOURCES[module]}:{line} imports {name}"
    for name, call in calls(module):
        where = f"{SOURCES[module]}:{call.lineno}"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in ("torch.load", "eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"), (
            f"{where} calls {name}"
        )
        assert keywords.get("allow_pickle", "False") == "False", f"{where} allows pickles"
        assert keywords.get("shell", "False") == "False", f"{where} goes through a shell"
