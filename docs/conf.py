"""The documentation site: `make site` builds it from the pages of this folder, into build/site."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, ClassVar

from pygments.lexer import RegexLexer
from pygments.token import Comment, Generic, Text

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]

project = "fastsmtp"
author = "the authors of fastsmtp"
project_copyright = author
release = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "fastsmtp/__init__.py").read_text(encoding="utf-8"), re.M
)[1]  # type: ignore[index]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
]
exclude_patterns = ["conf.py"]
# `name` in a docstring is code.
default_role = "code"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# A page is read on the hosting page of the repository too, where a heading gives its anchor.
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autosummary_generate = False
add_module_names = False
# The copied text of a session is what the reader types.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_favicon = "favicon.svg"
html_title = f"fastsmtp {release}"
html_show_sphinx = False
html_theme_options = {
    "source_repository": f"{SOURCE}/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path: list[str] = []


class Dialogue(RegexLexer):
    """A dialogue: what the client sends, and what the server replies."""

    name = "smtp"
    tokens: ClassVar = {
        "root": [
            (r"^C: .*\n", Generic.Prompt),
            (r"^S: [45]\d\d.*\n", Generic.Error),
            (r"^S: .*\n", Generic.Output),
            (r"…", Comment),
            (r".*\n", Text),
        ]
    }


def link_to_the_repository(_app: Any, _page: str, source: list[str]) -> None:
    """Let links out of this folder lead to the repository, which the site does not have."""
    source[0] = re.sub(r"\]\(\.\./([^)\s]+)\)", rf"]({SOURCE}/blob/main/\1)", source[0])


def setup(app: Any) -> None:
    app.add_lexer("smtp", Dialogue)
    app.connect("source-read", link_to_the_repository)
