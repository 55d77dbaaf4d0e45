"""The doubles, and what our adapter asks of the webui, held against the sources of a real one.

Reads them, imports nothing: `WEBUI_DIR=/path/to/stable-diffusion-webui` names a checkout.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ADAPTER = sorted((HERE.parent.parent / "demofusion_lib" / "webui").glob("*.py"))
DOUBLES = sorted((HERE / "host" / "modules").glob("*.py"))
WEBUI_DIR = os.environ.get("WEBUI_DIR")

pytestmark = pytest.mark.skipif(not WEBUI_DIR, reason="WEBUI_DIR names no checkout of the webui")


class Source:
    """The definitions of one module."""

    def __init__(self, path: Path):
        self.tree = ast.parse(path.read_text(encoding="utf8"))

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef]:
        return {node.name: node for node in self.tree.body if isinstance(node, ast.FunctionDef)}

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}

    @cached_property
    def names(self) -> set[str]:
        return set(self.functions) | set(self.classes) | set(bound_names(self.tree.body))


def bound_names(body: list[ast.stmt]) -> Iterator[str]:
    """What assignments and imports bind, in `if` and `with` too."""
    for node in body:
        if isinstance(node, ast.Assign):
            yield from (n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, (ast.If, ast.With, ast.Try)):
            yield from bound_names([*node.body, *getattr(node, "orelse", [])])


class Webui:
    """A checkout."""

    def __init__(self, folder: str):
        self.folder = Path(folder) / "modules"
        self.sources: dict[str, Source] = {}

    def __getitem__(self, module: str) -> Source:
        if module not in self.sources:
            self.sources[module] = Source(self.folder / f"{module.replace('.', '/')}.py")
        return self.sources[module]

    @cached_property
    def all_classes(self) -> dict[str, ast.ClassDef]:
        found = {}
        for path in sorted(self.folder.glob("*.py")):
            found.update(self[path.stem].classes)
        return found

    def with_bases(self, name: str) -> list[ast.ClassDef]:
        """A class and those that it derives from, as far as the webui defines them."""
        node = self.all_classes.get(name)
        if node is None:
            return []
        bases = [ast.unparse(base).split(".")[-1] for base in node.bases]
        return [node, *(cls for base in bases if base != name for cls in self.with_bases(base))]

    def methods(self, name: str) -> dict[str, ast.FunctionDef]:
        found: dict[str, ast.FunctionDef] = {}
        for cls in reversed(self.with_bases(name)):
            found.update({method_name(node): node for node in cls.body if isinstance(node, ast.FunctionDef)})
        return found

    def attributes(self, name: str) -> set[str]:
        """Methods, fields, and whatever the class's own methods set on `self`."""
        found = set(self.methods(name))
        for cls in self.with_bases(name):
            found.update(bound_names(cls.body))
            found.update(
                node.attr
                for node in ast.walk(cls)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_name(node.value, "self")
            )
        if "Processing" in name:  # some are set while it draws
            found.update(
                node.attr
                for node in ast.walk(self["processing"].functions["process_images_inner"])
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_name(node.value, "p")
            )
        return found

    @cached_property
    def options(self) -> dict[str, ast.expr]:
        """The default of each option."""
        found: dict[str, ast.expr] = {}
        hypertile = self.folder.parent / "extensions-builtin" / "hypertile" / "scripts" / "hypertile_script.py"
        for node in [*ast.walk(self["shared_options"].tree), *ast.walk(Source(hypertile).tree)]:
            if not isinstance(node, ast.Dict):
                continue
            for key, value in zip(node.keys, node.values):
                if isinstance(key, ast.Constant) and option_default(value) is not None:
                    found[key.value] = option_default(value)
        return found


def method_name(node: ast.FunctionDef) -> str:
    """A property's setter has the getter's name, and another signature."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return next((d for d in decorators if d.endswith(".setter")), node.name)


def option_default(value: ast.expr) -> ast.expr | None:
    """The first argument of `OptionInfo(...)`, behind which further calls may follow."""
    while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and not is_option(value.func):
        value = value.func.value
    is_info = isinstance(value, ast.Call) and is_option(value.func)
    return value.args[0] if is_info and value.args else None


def is_option(function: ast.expr) -> bool:
    return ast.unparse(function).split(".")[-1] == "OptionInfo" and "(" not in ast.unparse(function)


def is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def signature(function: ast.FunctionDef) -> dict[str, object]:
    a = function.args
    return {
        "arguments": [arg.arg for arg in [*a.posonlyargs, *a.args]],
        "defaults": [ast.unparse(default) for default in a.defaults],
        "keyword only": [(arg.arg, d and ast.unparse(d)) for arg, d in zip(a.kwonlyargs, a.kw_defaults)],
        "rest": (a.vararg and a.vararg.arg, a.kwarg and a.kwarg.arg),
    }


@pytest.fixture(scope="module")
def webui() -> Webui:
    return Webui(WEBUI_DIR)


def public(names) -> list[str]:
    return [name for name in names if not name.startswith("_") or name == "__init__"]


@pytest.mark.parametrize("path", DOUBLES, ids=lambda path: path.stem)
def test_doubles(webui, path):
    """Every public name of a double is the webui's, every function and method takes the same arguments."""
    double = Source(path)
    if path.stem == "__init__":
        assert not double.names
        return
    real = webui[path.stem]
    assert set(public(double.names)) - imported(double) <= real.names
    for name in public(double.functions):
        assert signature(double.functions[name]) == signature(real.functions[name]), name
    for name in public(double.classes):
        methods = webui.methods(name)
        for node in double.classes[name].body:
            if isinstance(node, ast.FunctionDef) and public([node.name]):
                assert signature(node) == signature(methods[method_name(node)]), f"{name}.{method_name(node)}"
        assert set(public(bound_names(double.classes[name].body))) <= webui.attributes(name)


def imported(source: Source) -> set[str]:
    return set(bound_names([node for node in source.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]))


def test_fields_of_the_processing_objects(webui):
    """The same defaults, and the same ones that `__init__` does not take."""
    double = Source(HERE / "host" / "modules" / "processing.py")
    for name in ("StableDiffusionProcessing", "StableDiffusionProcessingTxt2Img"):
        real = fields(webui["processing"].classes[name])
        for field, default in fields(double.classes[name]).items():
            if field in real:
                assert default == real[field], field


def fields(cls: ast.ClassDef) -> dict[str, str]:
    """The dataclass's fields with their defaults."""
    nodes = [n for n in cls.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return {n.target.id: ast.unparse(n.value) for n in nodes if n.value and "ClassVar" not in ast.unparse(n.annotation)}


def test_options_and_their_defaults(webui):
    double = Source(HERE / "host" / "modules" / "shared_options.py")
    (defaults,) = [
        node.value
        for node in double.tree.body
        if isinstance(node, ast.Assign) and is_name(node.targets[0], "_DEFAULTS")
    ]
    for key, default in zip(defaults.keys, defaults.values):
        if isinstance(webui.options[key.value], ast.Call):  # a folder, of where the webui's data are
            continue
        assert ast.unparse(default) == ast.unparse(webui.options[key.value]), key.value


def test_samplers_are_the_same(webui):
    """Names, solver functions and options of every sampler."""
    for module, table in (
        ("sd_samplers_kdiffusion", "samplers_k_diffusion"),
        ("sd_samplers_timesteps", "samplers_timesteps"),
    ):
        ours, theirs = (
            rows(source, table) for source in (Source(HERE / "host" / "modules" / f"{module}.py"), webui[module])
        )
        assert ours == theirs


def rows(source: Source, table: str) -> list[tuple[str, str, dict]]:
    (value,) = [n.value for n in source.tree.body if isinstance(n, ast.Assign) and is_name(n.targets[0], table)]
    known = ("scheduler", "second_order", "brownian_noise", "solver_type", "discard_next_to_last_sigma")
    found = []
    for row in value.elts:
        label, function, _, options = row.elts
        told = {k: v for k, v in ast.literal_eval(options).items() if k in known}
        found.append((label.value, ast.unparse(function), told))
    return found


# What the adapter asks for


class Uses(ast.NodeVisitor):
    """What one of our files takes from the webui."""

    def __init__(self, path: Path):
        self.modules: dict[str, str] = {}
        self.imported: list[tuple[str, str]] = []
        self.chains: list[list[str]] = []
        self.calls: list[tuple[list[str], ast.Call]] = []
        self.scripts: list[ast.ClassDef] = []
        self.visit(ast.parse(path.read_text(encoding="utf8")))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module == "modules":
            self.modules.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif (node.module or "").startswith("modules."):
            self.imported += [(node.module.removeprefix("modules."), alias.name) for alias in node.names]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if any(ast.unparse(base).endswith("Script") for base in node.bases):
            self.scripts.append(node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = chain_of(node)
        if chain:
            self.chains.append(chain)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        chain = chain_of(node.func)
        if chain:
            self.calls.append((chain, node))
        self.generic_visit(node)


def chain_of(node: ast.expr) -> list[str]:
    """`["shared", "opts", "x"]` of `shared.opts.x`; `self.p` and `self.sampler` count as `p` and `sampler`."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return []
    parts = [*parts, node.id][::-1]
    return parts[1:] if parts[0] == "self" else parts


CLASS_OF = {
    ("shared", "state"): "State",
    ("shared", "total_tqdm"): "TotalTQDM",
    ("p",): "StableDiffusionProcessingTxt2Img",
    ("p", "scripts"): "ScriptRunner",
}
SAMPLER_CLASSES = ("KDiffusionSampler", "CompVisSampler", "LCMSampler")


def owner(chain: list[str]) -> str | None:
    """The webui's class that the last name of a chain belongs to."""
    return CLASS_OF.get(tuple(chain[:-1]))


@pytest.mark.parametrize("path", ADAPTER, ids=lambda path: path.stem)
def test_everything_the_adapter_names_is_there(webui, path):
    uses = Uses(path)
    for module in uses.modules.values():
        assert (webui.folder / f"{module}.py").is_file()
    for module, name in uses.imported:
        if (webui.folder / module).is_dir():
            assert (webui.folder / module / f"{name}.py").is_file(), f"{module}.{name}"
            continue
        assert name in webui[module].names, f"{module}.{name}"
    for chain in uses.chains:
        where = ".".join(chain)
        if chain[0] in uses.modules:
            assert chain[1] in webui[uses.modules[chain[0]]].names, where
        if chain[:2] == ["shared", "opts"] and len(chain) > 2:
            assert chain[2] in {*webui.options, *webui.attributes("Options")}, where
        if chain[0] == "sampler" and len(chain) == 2:
            assert any(chain[1] in webui.attributes(name) for name in SAMPLER_CLASSES), where
        if owner(chain) and not chain[-1].startswith("__"):
            known = webui.attributes(owner(chain))
            if chain[0] == "p":
                known = known | webui.attributes("StableDiffusionProcessingImg2Img")
            assert chain[-1] in known, where


@pytest.mark.parametrize("path", ADAPTER, ids=lambda path: path.stem)
def test_calls_fit(webui, path):
    """Each call of a function or a method of the webui has the arguments that it takes."""
    uses = Uses(path)
    imported = {name: module for module, name in uses.imported}
    for chain, call in uses.calls:
        function, bound = called(webui, uses, imported, chain)
        if function is not None:
            assert_fits(call, function, bound, ".".join(chain))


def called(webui, uses, imported, chain) -> tuple[ast.FunctionDef | None, bool]:
    """The function that a call goes to, and whether its first argument is the object itself."""
    if len(chain) == 1 and chain[0] in imported:
        return function_or_init(webui, imported[chain[0]], chain[0])
    if len(chain) == 2 and chain[0] in uses.modules:
        return function_or_init(webui, uses.modules[chain[0]], chain[1])
    if chain[0] == "sampler" and len(chain) == 2:
        return next((m[chain[1]] for m in map(webui.methods, SAMPLER_CLASSES) if chain[1] in m), None), True
    if owner(chain):
        return webui.methods(owner(chain)).get(chain[-1]), True
    return None, False


def function_or_init(webui, module, name) -> tuple[ast.FunctionDef | None, bool]:
    if name in webui[module].functions:
        return webui[module].functions[name], False
    return webui.methods(name).get("__init__"), True


def assert_fits(call: ast.Call, function: ast.FunctionDef, bound: bool, where: str) -> None:
    a = function.args
    takes = [arg.arg for arg in a.args][bound:]
    required = takes[: len(takes) - len(a.defaults)]
    given = {keyword.arg for keyword in call.keywords}
    unpacks = any(isinstance(arg, ast.Starred) for arg in call.args) or None in given
    by_place = takes[: len(call.args)]
    assert a.vararg or len(call.args) <= len(takes), where
    assert a.kwarg or given - {None} <= set(takes) | {arg.arg for arg in a.kwonlyargs}, where
    assert not given & set(by_place), where
    assert unpacks or set(required) <= set(by_place) | given, where


def test_hooks_of_our_scripts(webui):
    """A hook that the webui does not know would never be called."""
    hooks = webui.methods("Script")
    found = [method for path in ADAPTER for cls in Uses(path).scripts for method in cls.body]
    found = [node for node in found if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert {"title", "show", "ui", "before_process", "postprocess"} <= {node.name for node in found}
    for node in found:
        ours, theirs = signature(node), signature(hooks[node.name])
        assert ours["arguments"] == theirs["arguments"], node.name
        assert ours["rest"] == theirs["rest"], node.name
