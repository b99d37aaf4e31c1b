"""Finding a command: as bash does, whatever PATH and the directories are like."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elfolio.cli.lookup import NOT_FOUND, Found, find
from elfolio.cli.parsing import Failure
from tests.cli.running import outcome

FOLDERS = ("one", "two", "three")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three directories and the one they are in, with the same name as a program, a plain file, a directory."""
    base = tmp_path_factory.mktemp("tree")
    for folder, mode in (("one", 0o644), ("two", 0o755), (".", 0o755)):
        file = base / folder / "tool"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\necho {folder} $0\n")
        file.chmod(mode)
    (base / "three" / "tool").mkdir(parents=True)
    return base


@given(st.lists(st.sampled_from((*FOLDERS, "", ".", "gone", "./two", "{base}/two", "{base}/one")), max_size=4))
def test_the_same_file_as_bash(tree: Path, folders: list[str]) -> None:
    """For any PATH the file that bash would run is found, or its 126 or 127."""
    search = ":".join(folders).format(base=tree)
    shell = outcome(["/bin/bash", "--norc", "-c", "tool"], env={"PATH": search}, cwd=tree)
    if shell.status == 127:
        # Where a directory has the name, bash forgets a plain file that comes after it; dash does not.
        if "three" not in folders:
            with pytest.raises(Failure) as failure:
                find("tool", search, str(tree))
            assert failure.value.status == NOT_FOUND
        return
    found = find("tool", search, str(tree))
    assert found.path.startswith("/")
    if shell.status == 126:
        assert not os.access(found.path, os.X_OK)
    else:
        said, _, called = shell.stdout.decode().rstrip("\n").partition(" ")
        assert Path(found.path).read_text().split()[2] == said
        assert found.called == called


def test_a_slash_is_a_path() -> None:
    """A name with a slash is never looked for; a relative one begins at the directory given."""
    assert find("./tool", "/usr/bin", "/start") == Found("/start/tool", "./tool")
    assert find("a/../tool", "/usr/bin", "/start") == Found("/start/a/../tool", "a/../tool")
    assert find("/bin/sh", "", "/start") == Found("/bin/sh", "/bin/sh")
