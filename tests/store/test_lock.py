import signal

import pytest

from stepscope.errors import FolderInUse
from stepscope.store.lock import FolderLock, is_held

HOLD = """
import os, sys, time
from pathlib import Path
from stepscope.store.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_one_holder_within_a_process(tmp_path):
    path = tmp_path / "lock"
    first = FolderLock(path)
    with pytest.raises(FolderInUse, match=r"is already being recorded by this process\. Close that writer first"):
        FolderLock(path)
    first.release()
    FolderLock(path).release()


def test_one_holder_between_processes_until_it_is_killed(tmp_path, start):
    path = tmp_path / "lock"
    holder = start(HOLD, path)
    holder.stdout.readline()
    assert is_held(path)
    with pytest.raises(FolderInUse) as caught:
        FolderLock(path)
    assert str(caught.value) == (
        f"{tmp_path} is being recorded by process {holder.pid}. Choose another folder, or wait until it ends."
    )
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_held(path)
    FolderLock(path).release()


FORK = """
import os, sys, time
from pathlib import Path
from stepscope.store.lock import FolderLock, is_held
path = Path(sys.argv[1])
lock = FolderLock(path)
wait, end = os.pipe()
child = os.fork()
if child == 0:
    lock.release()  # the parent's, not the child's
    assert is_held(path)
    os.close(end)
    os.read(wait, 1)
    os._exit(0)
time.sleep(0.1)
assert is_held(path)
lock.release()
lock.release()
assert not is_held(path)  # though the child lives on
os.write(end, b"x")
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_neither_releases_nor_keeps_the_lock(tmp_path, start):
    assert start(FORK, tmp_path / "lock").wait() == 0


def test_asking_takes_nothing_away(tmp_path):
    path = tmp_path / "lock"
    assert not is_held(path)
    assert not path.exists()
    lock = FolderLock(path)
    for _ in range(100):
        assert is_held(path)
    lock.release()
    for _ in range(100):
        assert not is_held(path)
        FolderLock(path).release()


FORK_WHILE_ASKING = """
import fcntl, os, sys
from pathlib import Path
from stepscope.store.lock import FolderLock, is_held
path = Path(sys.argv[1])
FolderLock(path).release()
flock, children = fcntl.flock, []
def flock_and_fork(file, how):
    flock(file, how)
    if how & fcntl.LOCK_SH:
        children.append(os.fork())
        if children[-1] == 0:
            os.close(end)
            os.read(wait, 1)
            os._exit(0)
wait, end = os.pipe()
fcntl.flock = flock_and_fork
assert not is_held(path)
FolderLock(path)
os.write(end, b"x")
os.waitpid(children[0], 0)
"""


def test_a_child_forked_while_asking_does_not_keep_what_asking_took(tmp_path, start):
    assert start(FORK_WHILE_ASKING, tmp_path / "lock").wait() == 0


def test_a_deleted_or_replaced_folder_is_noticed(tmp_path):
    path = tmp_path / "run" / "lock"
    path.parent.mkdir()
    lock = FolderLock(path)
    lock.check()
    path.parent.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        lock.check()
    path.parent.mkdir()
    other = FolderLock(path)
    with pytest.raises(OSError, match="replaced"):
        lock.check()
    lock.release()
    assert is_held(path)
    other.release()


def test_a_read_only_copy_is_held_by_nobody(tmp_path):
    (tmp_path / "lock").write_text("1\n")
    (tmp_path / "lock").chmod(0o444)
    assert not is_held(tmp_path / "lock")
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
