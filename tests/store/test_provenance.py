import json
import os
import platform
import subprocess
import sys
import types

import pytest

from stepscope.store import provenance

module = sys.modules[provenance.__module__]  # its name in the package is the function's


def git(*words):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    try:
        git("init", "-q")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    return tmp_path


def test_it_is_plain_json_and_complete():
    found = provenance(["train.py", "--lr", "0.1"], seeds=[1, 2])
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == ["train.py", "--lr", "0.1"]
    assert found["seeds"] == [1, 2]
    assert found["python"] == platform.python_version()
    assert found["packages"].keys() == {"stepscope", "torch", "numpy", "pyarrow"}
    assert found["packages"]["numpy"] == sys.modules["numpy"].__version__
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_bytes"] > 2**28


def test_the_command_is_this_process_unless_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--seed", "3"])
    assert provenance()["command"] == ["train.py", "--seed", "3"]


def test_the_commit_and_whether_it_was_changed(repository):
    assert provenance()["git"] == {"commit": None, "dirty": False}
    (repository / "train.py").write_text("1\n")
    git("add", "train.py")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert provenance()["git"] == {"commit": commit, "dirty": False}
    (repository / "untracked").touch()
    assert provenance()["git"] == {"commit": commit, "dirty": False}
    (repository / "train.py").write_text("2\n")
    assert provenance()["git"] == {"commit": commit, "dirty": True}


def test_no_repository_no_git_and_a_slow_git_are_no_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["git"] is None
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert provenance()["git"] is None
    (tools / "git").write_text(f"#!{sys.executable}\nimport time\ntime.sleep(30)\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    assert provenance()["git"] is None


def test_a_deleted_current_folder_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert provenance(["x"])["command"] == ["x"]
    monkeypatch.undo()


def test_it_tells_neither_the_user_nor_the_machine(tmp_path, monkeypatch):
    home = tmp_path / "people" / "alice"
    (home / "project").mkdir(parents=True)
    monkeypatch.chdir(home / "project")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "alice")
    command = [
        f"{home}/project/train.py",
        f"--data={home}/data",
        "--out=/scratch/alice/runs",
        "/scratch/alice",
        f"{home}",
        f"{home}xandra/other",
        "/scratch/alicexandra",
    ]
    found = provenance(command)
    assert found["command"] == [
        "train.py",
        "--data=~/data",
        "--out=/scratch/~/runs",
        "/scratch/~",
        "~",
        f"{home}xandra/other",
        "/scratch/alicexandra",
    ]
    text = json.dumps({**found, "command": []})
    assert "alice" not in text
    assert str(tmp_path) not in text
    system = os.uname()
    assert found["platform"] == f"{system.sysname} {system.release} {system.machine}"


def test_torch_is_not_imported_for_it():
    script = "import sys; from stepscope import store; store.provenance(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_gpu_is_named_without_waking_it(tmp_path, monkeypatch):
    """A stand-in for torch with CUDA that fails the test if CUDA is initialized, and one for the driver's tool."""

    def wake():
        raise AssertionError("this would initialize CUDA")

    cuda = types.SimpleNamespace(is_initialized=lambda: False, get_device_name=wake, is_available=wake)
    torch = types.SimpleNamespace(version=types.SimpleNamespace(cuda="13.0", hip=None), cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["hardware"]["gpu"] is None
    (tmp_path / "nvidia-smi").write_text(f"#!{sys.executable}\nprint('Big GPU')\nprint('Big GPU')\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert provenance()["hardware"]["gpu"] == "Big GPU"
    cuda.is_initialized = lambda: True
    cuda.get_device_name = lambda: "Other GPU"
    assert provenance()["hardware"]["gpu"] == "Other GPU"
    torch.version.cuda = None
    assert provenance()["hardware"]["gpu"] is None
