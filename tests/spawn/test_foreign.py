"""Templates elsewhere than in the process that made them: they refuse."""

import copy
import errno
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import elfolio
from tests.spawn.probing import in_fresh_host


def test_a_template_stays_with_its_process() -> None:
    """After os.fork the child's copy refuses with EACCES, without breaking the parent's, and a new one works."""

    def host() -> list[object]:

        import os

        import elfolio

        template = elfolio.SpawnTemplate("/bin/true")
        template.spawn(["true"]).wait()
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            said = b"started"
            try:
                template.spawn(["true"])
            except PermissionError as error:
                said = str(error.errno).encode()
            with elfolio.SpawnTemplate("/bin/true") as own:
                said += b" %d" % own.spawn(["true"]).wait()
            del template
            os.write(writing, said)
            os._exit(0)
        os.waitpid(pid, 0)
        return [os.read(reading, 100).decode(), template.spawn(["true"]).wait()]

    assert in_fresh_host(host) == ["13 0", 0]


WORKER = """
import elfolio, multiprocessing, sys

def use(template):
    try:
        template.spawn(["true"])
    except PermissionError as error:
        return error.errno

if __name__ == "__main__":
    template = elfolio.SpawnTemplate("/bin/true")
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.apply(use, (template,)), template.spawn(["true"]).wait())
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_gets_no_authority(method: str, tmp_path: Path) -> None:
    """A template sent to a multiprocessing worker refuses there with EACCES."""
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    done = subprocess.run([sys.executable, script, method], check=True, capture_output=True, text=True)
    assert done.stdout == "13 0\n"


def test_an_unpickled_template_refuses() -> None:
    """Pickled and unpickled, or copied, a template refuses everything with EACCES, and still says what it was."""
    with elfolio.SpawnTemplate("/bin/true") as template:
        for twin in (pickle.loads(pickle.dumps(template)), copy.copy(template), copy.deepcopy(template)):
            assert twin.target == "/bin/true"
            for use in (lambda: twin.spawn(["true"]), lambda: twin.run(["true"]), twin.check, lambda: twin.leased):  # noqa: B023
                with pytest.raises(PermissionError) as caught:
                    use()
                assert caught.value.errno == errno.EACCES
            repr(twin)
            twin.close()
        assert template.spawn(["true"]).wait() == 0
