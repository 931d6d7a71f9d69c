"""Which Java is taken, by what each candidate says of its version."""

from pathlib import Path

import pytest

from streams.local.java import JavaError, java_version, system_java


def java_saying(folder: Path, words: str) -> Path:
    """A java program that says `words` when asked for its version."""
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{words}' >&2\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "1.8.0_391"', 1),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "21.0.1"', 21),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
        ("", None),
    ],
)
def test_the_version_is_read_from_what_java_says(said: str, version: int | None) -> None:
    """Old and new numbering, lines before the version, and programs that are no Java."""
    assert java_version(said) == version


def test_java_home_comes_before_the_path(tmp_path: Path) -> None:
    """JAVA_HOME is the more deliberate choice."""
    home = java_saying(tmp_path / "home", 'openjdk version "21.0.1"')
    path = java_saying(tmp_path / "path", 'openjdk version "21.0.1"')
    assert system_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(path.parent)}) == home
    assert system_java({"PATH": str(path.parent)}) == path


def test_a_java_home_that_is_too_old_falls_back_to_the_path(tmp_path: Path) -> None:
    """A broker on it would die of a class version error."""
    java_saying(tmp_path / "home", 'java version "1.8.0_391"')
    path = java_saying(tmp_path / "path", 'openjdk version "17.0.15"')
    assert system_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(path.parent)}) == path


def test_no_java_that_is_new_enough_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    """The user learns which Java was passed over, and what to install."""
    old = java_saying(tmp_path, 'openjdk version "11.0.2"')
    with pytest.raises(JavaError, match=r'17 or newer .*java is openjdk version "11.0.2".*headgate\[demo\]'):
        system_java({"PATH": str(old.parent)})
    with pytest.raises(JavaError, match="none was found"):
        system_java({"PATH": str(tmp_path / "nowhere")})
