"""The tiny backbones are those of the tests of `adapt`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "adapt"))
