"""Where the page that explains a case's prediction lies, and whose page a file is: what writes and what erases them agree here.

`<home>/reports/explanations/<model_version>/<case>.html`. A page that is being written has a hidden name in the same folder, from
which the case can be read as well, since a killed process leaves it.
"""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from feature_store.home import Home

_ENDING = ".html"
_NAME = re.compile(rf"\.?(?P<case>[^/]+?){re.escape(_ENDING)}(\.\d+\.tmp)?")


def page_path(home: Home, model_version: str, case_id: str) -> Path:
    """Return where a case's page goes; signs that no file name takes are percent-encoded."""
    return home.explanations / model_version / f"{quote(case_id, safe=' ').replace('.', '%2E')}{_ENDING}"


def unfinished(path: Path) -> Path:
    """Return the name under which this process writes a page that is to lie at `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def case_of(path: Path) -> str | None:
    """Return whose page a file is, None for a file that is no page."""
    match = _NAME.fullmatch(path.name)
    return unquote(match["case"]) if match else None


def pages(home: Home) -> list[Path]:
    """Return all pages of an installation, finished or not."""
    return sorted(path for path in home.explanations.glob("*/*") if path.is_file() and case_of(path) is not None)
