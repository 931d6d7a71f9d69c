"""What CI runs."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
CI = ROOT / ".ci" / "run"


def test_ci_is_a_script_that_ends_with_the_tests() -> None:
    """Executable, correct bash, and only `make` commands that there are; pytest's summary comes last."""
    assert os.access(CI, os.X_OK)
    subprocess.run(["bash", "-n", CI], check=True)
    script = CI.read_text("utf-8")
    targets = re.findall(r"^make (\w+)", script, re.M)
    assert targets == ["demo", "test"]
    assert script.endswith("make test\n")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)] == []
