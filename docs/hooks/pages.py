"""MkDocs hook: pages that are generated from files outside of the folder ``docs``."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from moleflow.experiment.conf import find_conf

sys.path.append(str(Path(__file__).parent))
from configuration_reference import reference

ROOT = Path(__file__).parents[2]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Files at the top of the repository by the page that shows them."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the configuration reference and the pages from the top of the repository."""
    files.append(File.generated(config, "configuration-reference.md", content=reference(find_conf())))
    for page, name in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=site_links(text)))
    return files


def site_links(text: str) -> str:
    """Return a document at the top of the repository with links that are valid on the site.

    Args:
        text: The document, whose links are relative to the top of the repository.
    """
    text = re.sub(r"^!\[[^\]]*\]\(https:[^)]*\)\n", "", text, flags=re.M)  # badges: no request to another server
    for page, name in PAGES.items():
        text = text.replace(f"]({name}", f"]({page}")
    text = re.sub(r"\[([^\]]+)\]\((?:LICENSE|CITATION\.cff)\)", r"\1", text)  # files that are not part of the site
    return re.sub(r"\]\(docs/", "](", text)
