"""The page on the layers draws what import-linter enforces, and explains every module."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "develop" / "layers.md"
PACKAGE = ROOT / "langchain_convsync"


def contracts() -> tuple[list[str], list[str]]:
    """The layers of the whole package, uppermost first; and those that keep the server apart."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    whole, server, *_ = settings["tool"]["importlinter"]["contracts"]
    assert whole["exhaustive"]
    return whole["layers"], server["layers"]


def picture() -> str:
    """The block that belongs on the page: a line per layer."""
    lines = [layer.replace("(", "").replace(")", "").replace("|", "│") for layer in contracts()[0]]
    return "\n".join(["```", *lines, "```"])


def modules() -> list[str]:
    """The modules of the contract, from the uppermost layer to the lowest."""
    return names(contracts()[0])


def names(layers: list[str]) -> list[str]:
    """The modules of some layers."""
    return re.findall(r"\w+", " ".join(layers))


def test_the_picture_is_what_import_linter_enforces() -> None:
    """A change of the contract is a change of the page: paste what this test prints."""
    shown = re.search(
        r"<!-- layers: .*? -->\n(.*?)\n<!-- /layers -->", PAGE.read_text("utf-8"), re.DOTALL
    )

    assert shown is not None
    assert shown[1] == picture(), f"this belongs there:\n{picture()}"


def test_every_module_of_the_layers_is_explained_in_their_order() -> None:
    """One row each."""
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE) == modules()


def test_the_layers_name_the_folder_tree() -> None:
    """Every module and folder of the package, and no other."""
    tree = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }

    assert set(modules()) == tree


def test_the_server_sees_telemetry_and_the_lowest_layer_alone() -> None:
    """As the page says: everything else below it is above it in a contract of its own."""
    whole, (above, below) = contracts()
    (place,) = (place for place, layer in enumerate(whole) if "server" in names([layer]))

    assert below == "(server)"
    assert set(names(whole[place + 1 : -1])) - set(names([above])) == {"telemetry"}
