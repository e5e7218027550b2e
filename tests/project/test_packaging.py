"""What is said about ajit is the same everywhere: metadata, citation, recipe, constraints."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ajit

PROJECT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
RECIPE = (PROJECT / "recipe" / "recipe.yaml").read_text()
CONSTRAINTS = (PROJECT / "constraints.txt").read_text()


@pytest.mark.parametrize(
    ("file", "line"),
    [("CITATION.cff", r"^version: (.+)$"), ("recipe/recipe.yaml", r'^  version: "(.+)"$')],
)
def test_version_is_that_of_the_package(file, line):
    """It is written in `ajit/__init__.py`, and repeated here."""
    (version,) = re.findall(line, (PROJECT / file).read_text(), re.MULTILINE)

    assert version == ajit.__version__


def test_recipe_needs_what_the_wheel_needs():
    """At the same versions; conda has another name for NVRTC."""
    expected = {
        f"{one.name.replace('nvidia-cuda-nvrtc', 'cuda-nvrtc')} {one.specifier}"
        for one in map(Requirement, PYPROJECT["dependencies"])
    }
    run = RECIPE.partition("  run:\n")[2].partition("\n\n")[0]
    actual = {line.strip(" -") for line in run.splitlines()} - {"python >=3.11"}

    assert {_ordered(text) for text in expected} == {_ordered(text) for text in actual}


def test_recipe_has_the_programs_of_the_wheel():
    """Each of them."""
    scripts = {f"{name} = {place}" for name, place in PYPROJECT["scripts"].items()}
    programs = RECIPE.partition("entry_points:\n")[2].partition("\n\n")[0]

    assert scripts == {line.strip(" -") for line in programs.splitlines()}


@pytest.mark.parametrize("platform", ["linux-64", "linux-aarch64"])
def test_recipe_renders(platform):
    """By rattler-build's own parser: one package, for either machine."""
    build = pytest.importorskip("rattler_build", reason="make dist installs it")
    compilers = "c_compiler: [gcc]\ncxx_compiler: [gxx]\nc_stdlib: [sysroot]\n"
    recipe = build.Stage0Recipe.from_yaml(RECIPE)
    config = build.RenderConfig(build.PlatformConfig(target_platform=platform))
    rendered = recipe.render(build.VariantConfig.from_yaml(compilers), config)

    assert [one.recipe.package.version for one in rendered] == [ajit.__version__]


def test_constraints_are_what_the_wheel_takes():
    """A version that was tested with is one that the metadata allows; each dependency has one."""
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    needed = [Requirement(text) for text in PYPROJECT["dependencies"]]
    missing = [one.name for one in needed if canonicalize_name(one.name) not in pinned]
    outside = [
        one.name
        for one in needed
        if one.name in pinned and not one.specifier.contains(pinned[one.name], prereleases=True)
    ]

    assert (missing, outside) == ([], [])


def test_only_the_bindings_of_cuda_python_are_needed():
    """Its metapackage would bring cuda.core and NumPy with it."""
    needed = {Requirement(text).name for text in PYPROJECT["dependencies"]}

    assert "cuda-bindings" in needed
    assert needed.isdisjoint({"cuda-python", "cuda-core", "numpy"})


def _ordered(text: str) -> tuple[str, ...]:
    name, _, versions = text.partition(" ")
    return name, *sorted(versions.split(","))
