"""The paths of Node and of the JavaScript packages."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

FOLDER = Path(__file__).parent / "node"
NODE = shutil.which("node", path=sysconfig.get_path("scripts")) or "node"
