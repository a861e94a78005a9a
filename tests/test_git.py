"""Commits, suspects and exports, on real repositories."""

from __future__ import annotations

import subprocess
from datetime import timedelta
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
    assert len(list((tmp_path / "repos").glob("*.git"))) == 1


def test_export_writes_the_commit_and_not_the_worktree(repo: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    run(tmp_path, "clone", "-q", str(repo), str(source))
    (source / "csrc" / "a").write_text("uncommitted")
    git.export(source, run(source, "rev-parse", "HEAD~3"), ["csrc", "fp8bench/backends"], tmp_path / "out")
    assert (tmp_path / "out" / "csrc" / "a").read_text() == "1"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["csrc"]
    assert git.dirty_files(source) == ("csrc/a",)
    assert git.dirty_files(repo) == ()


def test_export_follows_no_links_and_keeps_what_can_be_run(repo: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run(repo, "clone", "-q", str(repo), str(clone))
    (clone / "csrc" / "link").symlink_to("/etc")
    (clone / "csrc" / "tool").write_text("#!/bin/sh")
    (clone / "csrc" / "tool").chmod(0o755)
    sha = commit(clone, "Link")
    git.export(clone, sha, ["csrc"], tmp_path / "tree")
    assert sorted(path.name for path in (tmp_path / "tree" / "csrc").iterdir()) == ["a", "tool"]
    assert (tmp_path / "tree" / "csrc" / "tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "tree" / "csrc" / "a").stat().st_mode & 0o777 == 0o644


def test_export_of_a_foreign_commit_is_told(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="has no kernels or nothing"):
        git.export(repo, run(repo, "rev-parse", "HEAD"), ["kernels", "nothing"], tmp_path)


# ---- URLs: shallow at first, whole when asked ---------------------------------------------------------------


def history(clone: Path) -> int:
    return int(run(clone, "rev-list", "--count", "--all"))


def test_the_first_fetch_is_shallow_and_history_comes_when_asked_for(repo: Path, tmp_path: Path) -> None:
    url = repo.as_uri()
    head = git.resolve(url, "HEAD", tmp_path)
    clone = git.open_repo(url, tmp_path, fetch=False)
    assert (clone / "shallow").exists()
    assert head.files == ()  # a tip is not taken for a root
    assert git.suspects(url, head.sha, head.sha, tmp_path) == ()
    assert (clone / "shallow").exists()

    first = git.resolve(url, "HEAD~3", tmp_path)
    assert history(clone) == history(repo)
    assert [commit.subject[:6] for commit in git.suspects(url, first.sha, head.sha, tmp_path)] == ["Faster"]


def test_a_commit_at_the_boundary_is_not_taken_for_a_root(repo: Path, tmp_path: Path) -> None:
    found = git.resolve(repo.as_uri(), "v1", tmp_path)
    assert found.files == ("csrc/a", "fp8bench/backends/cpu")
    assert git.resolve(repo.as_uri(), "HEAD~1", tmp_path) == found


def test_a_renamed_default_branch_is_followed(repo: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    run(repo, "clone", "-q", str(repo), str(origin))
    git.resolve(origin.as_uri(), "HEAD", tmp_path / "cache")
    run(origin, "branch", "-m", "main", "trunk")
    latest = commit(origin, "Newest", csrc__a="9")
    assert git.resolve(origin.as_uri(), "HEAD", tmp_path / "cache").sha == latest


def test_a_password_in_a_url_is_not_kept(repo: Path, tmp_path: Path) -> None:
    url = repo.as_uri().replace("file://", "file://jo:hunter2@localhost")
    git.resolve(url, "HEAD~3", tmp_path)
    git.resolve(url, "HEAD", tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []


def test_a_range_is_the_kernel_commits_after_its_first(repo: Path, tmp_path: Path) -> None:
    first, found = git.in_range(repo.as_uri(), "HEAD~3..HEAD", tmp_path)
    assert first == run(repo, "rev-parse", "HEAD~3")
    assert [commit.subject[:6] for commit in found] == ["Faster"]


@pytest.mark.parametrize("span", ["HEAD", "..HEAD", "HEAD..", "HEAD...HEAD~1", "--all..HEAD", "a b..HEAD"])
def test_what_is_no_range_is_told(repo: Path, tmp_path: Path, span: str) -> None:
    with pytest.raises(RevisionError, match=r"write A\.\.B|is not a commit of"):
        git.in_range(repo, span, tmp_path)


def test_commits_wait_until_a_night_has_measured_them(repo: Path, tmp_path: Path) -> None:
    def subjects(*measured: str, limit: int = 20) -> list[str]:
        shas = [run(repo, "rev-parse", revision) for revision in measured]
        return [entry.subject[:6] for entry in git.unmeasured(repo, "HEAD", [*shas, "0" * 40], tmp_path, limit)]

    assert subjects() == ["Faster"]  # the newest one alone, as nothing was measured
    assert subjects("HEAD~3") == ["Faster"]
    assert subjects("HEAD") == []


def test_kernels_are_equal_whatever_else_changed(repo: Path, tmp_path: Path) -> None:
    shas = [run(repo, "rev-parse", revision) for revision in ("HEAD", "HEAD~1", "HEAD~2", "HEAD~3")]
    equal = [git.kernels_equal(repo, shas[0], other, tmp_path) for other in shas]
    assert equal == [True, True, False, False]
    assert git.kernels_equal(repo, shas[2], shas[3], tmp_path)


def test_the_latest_commit_of_a_time_gone_by(repo: Path, tmp_path: Path) -> None:
    when = git.resolve(repo, "HEAD", tmp_path).date
    assert when is not None
    assert git.latest_before(repo, "HEAD", when + timedelta(days=1), tmp_path).subject == "More words"
    with pytest.raises(RevisionError, match="has no commit from before"):
        git.latest_before(repo, "HEAD", when - timedelta(days=1), tmp_path)
