"""README's tree of the package, against the sources: a module imports only from those above it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
HIGHEST_OF_CONVERT = "mllama"


def layers() -> list[str]:
    """The modules and packages of cotcli from the lowest up, as README lists them."""
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("\ncotcli/\n")[2].partition("\n```")[0]
    return re.findall(r"^  (\w+)(?:\.py|/) ", tree.partition("\nconvert/")[0], re.MULTILINE)


def imports(file: Path) -> Iterator[str]:
    """Dotted names of what a file imports, wherever in it; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_the_tree_is_complete() -> None:
    modules = {path.relative_to(ROOT / "cotcli").parts[0].removesuffix(".py") for path in sources("cotcli")}
    assert modules - {"__init__", "__main__"} == set(layers()) - {"data"}


def test_imports_point_up_the_tree() -> None:
    order = layers()
    wrong = []
    checked = 0
    for file in sources("cotcli"):
        own = file.relative_to(ROOT / "cotcli").parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        for name in imports(file):
            package, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if package == "convert" and own != "cli":
                wrong.append(f"{file.name}: {name}")
            if package == "cotcli" and other in order:
                checked += 1
                if order.index(other) > order.index(own):
                    wrong.append(f"{own}: {name}")
    assert wrong == []
    assert checked > 100


def test_convert_needs_no_more_than_the_lowest() -> None:
    used = {
        name.split(".")[1]
        for file in sources("convert")
        if file.name != "__main__.py"  # the command itself
        for name in imports(file)
        if name.startswith("cotcli.")
    }
    order = layers()
    assert HIGHEST_OF_CONVERT in used <= set(order[: order.index(HIGHEST_OF_CONVERT) + 1])


def test_packages_know_none_that_stand_on_them() -> None:
    above = {
        "cotcli": {"training", "benchmarks", "tests"},
        "convert": {"training", "benchmarks", "tests"},
        "training": {"tests"},
        "benchmarks": {"tests"},
    }
    for package, others in above.items():
        files = sources(package)
        assert files
        for file in files:
            assert not others & {name.partition(".")[0] for name in imports(file)}, file


def test_foreign_code_has_one_place_each() -> None:
    for file in (*sources("cotcli"), *sources("convert")):
        packages = {name.partition(".")[0] for name in imports(file)}
        if "native" not in file.parts:
            assert not {"ctypes", "llama_cpp"} & packages, file
        assert not {"torch", "transformers"} & packages, file
