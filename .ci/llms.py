"""What machines read: `llms.txt` lists the pages of `docs/`, `llms-full.txt` is all of them.

The build of a wheel runs it as its hook, so that both come with the pages. For the site,
`python .ci/llms.py FOLDER` writes them there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parents[1]
ONLINE = "https://github.com/langchain-convsync/langchain-convsync/blob/main/docs/"
HEAD = """# langchain-convsync

> Gives a LangChain agent its WhatsApp conversations as memory and tools. Syncs messages, intent,
> step and context back to an API server: once, in order, for the right tenant.

Coding assistants read skill.md first. Classes and functions explain themselves in `help(name)`.
"""


def pages(root: Path) -> dict[str, list[str]]:
    """Each chapter's pages, in the site's order; those of the API are docstrings, and left out."""
    chapters: dict[str, list[str]] = {}
    navigation = (root / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    chapter = ""
    for line in navigation.splitlines():
        chapter = found[1] if (found := re.match(r"  - (\w+):", line)) else chapter
        if (page := re.search(r"[\w/-]+\.md", line)) and "reference/api/" not in line:
            chapters.setdefault(chapter, []).append(page[0])
    return chapters


def index(root: Path, base: str = "") -> str:
    """`llms.txt`: every page with its title."""
    text = HEAD
    for chapter, names in pages(root).items():
        text += f"\n## {chapter}\n\n"
        for name in names:
            page = (root / "docs" / name).read_text(encoding="utf-8")
            text += f"- [{re.findall('^# (.+)$', page, re.MULTILINE)[0]}]({base}{name})\n"
    return text


def everything(root: Path) -> str:
    """`llms-full.txt`: every page, under its file's name."""
    names = [name for chapter in pages(root).values() for name in chapter]
    texts = [(root / "docs" / name).read_text(encoding="utf-8") for name in names]
    return "\n".join(
        [HEAD, *(f"<!-- {name} -->\n\n{text}" for name, text in zip(names, texts, strict=True))]
    )


def write(root: Path, folder: Path, base: str = "") -> None:
    """Both files."""
    (folder / "llms.txt").write_text(index(root, base), encoding="utf-8")
    (folder / "llms-full.txt").write_text(everything(root), encoding="utf-8")


class PagesHook(BuildHookInterface[Any]):
    """Puts the pages into the wheel, as `langchain_convsync/docs`; a clone has them beside it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files."""
        if version == "editable":
            return
        self._folder = TemporaryDirectory()
        root, made = Path(self.root), Path(self._folder.name)
        write(root, made)
        inside = "langchain_convsync/docs"
        docs = root / "docs"
        taken = [*docs.rglob("*.md"), *(docs / "assets").glob("convsync-*")]
        for source in [*made.iterdir(), *taken]:
            name = source.relative_to(made if source.parent == made else docs).as_posix()
            build_data["force_include"][str(source)] = f"{inside}/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called when the wheel is there."""
        if version != "editable":
            self._folder.cleanup()


if __name__ == "__main__":
    write(ROOT, Path(sys.argv[1]), ONLINE)
