"""Commits, suspects and exports, on real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fp8bench import git
from fp8bench.errors import RevisionError


def run(repo: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repo), "-c", "user.name=Jo & Co", "-c", "user.email=jo@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(repo: Path, subject: str, **files: str) -> str:
    for name, text in files.items():
        path = repo / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run(repo, "add", "-A")
    run(repo, "commit", "-q", "-m", subject)
    return run(repo, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("git") / "repo"
    path.mkdir()
    run(path, "init", "-q", "-b", "main")
    commit(path, "First", csrc__a="1", README="hello")
    commit(path, "Only words", README="hello again")
    commit(path, 'Faster <script>alert("x")</script>', csrc__a="2", fp8bench__backends__cpu="b")
    run(path, "tag", "v1")
    commit(path, "More words", README="enough")
    return path


def test_resolve_reads_the_commit(repo: Path, tmp_path: Path) -> None:
    found = git.resolve(repo, "v1", tmp_path)
    assert found.subject == 'Faster <script>alert("x")</script>'
    assert (found.author, found.email) == ("Jo & Co", "jo@example.org")
    assert found.files == ("csrc/a", "fp8bench/backends/cpu")
    assert found.sha == run(repo, "rev-parse", "v1")


def test_suspects_touch_kernels_and_lie_after_the_baseline(repo: Path, tmp_path: Path) -> None:
    first, head = (git.resolve(repo, revision, tmp_path).sha for revision in ("HEAD~3", "HEAD"))
    assert [commit.subject[:6] for commit in git.suspects(repo, first, head)] == ["Faster"]
    assert git.suspects(repo, head, head) == ()


@pytest.mark.parametrize("revision", ["nope", "--help", "--output=/tmp/x", "-1", "", "HEAD:README", "a b", "HEAD\0"])
def test_what_is_no_commit_is_told(repo: Path, tmp_path: Path, revision: str) -> None:
    with pytest.raises(RevisionError, match=r"is not a commit of .*give a branch, a tag or a sha"):
        git.resolve(repo, revision, tmp_path)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("/no/such/place", "no such directory"),
        ("file:///no/such/place", "cannot fetch"),
        ("https://user:secret@127.0.0.1:1/x.git", "cannot fetch https://127.0.0.1:1/x.git"),
        ("--upload-pack=touch /tmp/x", "no such directory"),
    ],
)
def test_unreachable_repositories_are_told(where: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match=told) as error:
        git.resolve(where, "HEAD", tmp_path / "repos")
    assert "secret" not in str(error.value)


def test_a_plain_directory_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="is not a git repository"):
        git.resolve(tmp_path, "HEAD", tmp_path)


def test_a_url_is_cloned_once_and_fetched(repo: Path, tmp_path: Path) -> None:
    source, url = tmp_path / "source", f"file://{tmp_path}/source"
    run(tmp_path, "clone", "-q", str(repo), str(source))
    before = git.resolve(url, "HEAD", tmp_path / "repos")
    added = commit(source, "Later", csrc__b="3")
    cached = git.open_repo(url, tmp_path / "repos", fetch=False)
    assert run(cached, "rev-parse", "main") == before.sha
    assert git.resolve(url, "main", tmp_path / "repos").sha == added
    assert [commit.sha for commit in git.suspects(url, before.sha, added, tmp_path / "repos")] == [added]
    assert len(list((tmp_path / "repos").iterdir())) == 1


def test_export_writes_the_commit_and_not_the_worktree(repo: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    run(tmp_path, "clone", "-q", str(repo), str(source))
    (source / "csrc" / "a").write_text("uncommitted")
    git.export(source, run(source, "rev-parse", "HEAD~3"), ["csrc", "fp8bench/backends"], tmp_path / "out")
    assert (tmp_path / "out" / "csrc" / "a").read_text() == "1"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["csrc"]
    assert git.dirty_files(source) == ("csrc/a",)
    assert git.dirty_files(repo) == ()


def test_export_of_a_foreign_commit_is_told(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="has no kernels or nothing"):
        git.export(repo, run(repo, "rev-parse", "HEAD"), ["kernels", "nothing"], tmp_path)
