"""Commits: who, when, what touched the kernels; and their files in a directory.

A repository is a path or a URL. Of a URL a bare clone is kept in a cache directory and fetched anew by `open_repo`. The
first fetch is shallow: the tips of all branches and tags, which is what a first night needs. Their history is fetched,
once, when somebody asks for it: for a range of commits, or for a commit that is no tip.
Git runs with argument lists, and everything that a person gave stands behind `--end-of-options` or `--`, so neither
a revision nor a URL can become an option.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from .errors import RevisionError
from .records import Commit
from .secrecy import public

KERNEL_PATHS = ("csrc", "fp8bench/backends")  # what a commit must touch to be a suspect
_LOCAL_TIMEOUT_S = 60.0
_REMOTE_TIMEOUT_S = 600.0
_SHALLOW = "--depth=2"  # a tip, and its parent to tell what it touched
_REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_RANGE = re.compile(r"([^.^~\s][^\s]*?)\.\.([^.\s][^\s]*)")
_FIELDS = "%H%x00%an%x00%ae%x00%aI%x00%s"


def is_url(repo: str) -> bool:
    """Whether `repo` names a remote (scheme://... or user@host:path) and not a directory."""
    return "://" in repo or re.match(r"[\w.-]+@[\w.-]+:", repo) is not None


def open_repo(repo: str | Path, cache_dir: Path, *, fetch: bool = True) -> Path:
    """Directory in which git knows the commits of `repo`: the path itself, or the cached clone of a URL.

    fetch: bring the clone up to date; later stages of a night leave it as it is.
    Raises RevisionError for a path that is no repository and for a remote that cannot be reached.
    """
    text = str(repo)
    return _open_url(text, cache_dir, fetch) if is_url(text) else _open_path(Path(text))


def check_repo(repo: str, timeout: float, branch: str = "") -> str:
    """Say where `repo` is; nothing is fetched. branch: whose latest commit is wanted; "": HEAD's.

    RevisionError when git cannot read `repo`, or finds no such branch in it.
    """
    if is_url(repo):
        done = _git(Path(), "ls-remote", "--quiet", "--end-of-options", repo, branch or "HEAD", timeout=timeout)
        if done.returncode:
            raise _unreachable(repo, done.stderr)
        where, known = public(repo), bool(done.stdout.strip())
    else:
        directory = _open_path(Path(repo))
        where, known = str(directory), bool(_commit_of(directory, branch or "HEAD"))
    if not known:
        wanted = f"branch {branch!r}: set nights.branch to one that it has" if branch else "commit yet: make one"
        raise RevisionError(f"{where} has no {wanted}.")
    return where


def resolve(repo: str | Path, revision: str, cache_dir: Path) -> Commit:
    """The commit that `revision` (sha, branch, tag, HEAD~1, ...) names in `repo` now."""
    directory = open_repo(repo, cache_dir)
    spoken = f"revision {revision!r} is not a commit of {public(str(repo))}"
    if not revision or "\0" in revision:
        raise RevisionError(f"{spoken}: give a branch, a tag or a sha.")
    sha = _commit_of(directory, revision)
    if not sha or sha in _boundary(directory):
        _complete(repo, directory)
        sha = _commit_of(directory, revision)
    if not sha:
        raise RevisionError(f"{spoken}: give a branch, a tag or a sha that `git log` there knows.")
    return describe(directory, sha)


def _commit_of(directory: Path, revision: str) -> str:
    """The sha of the commit that `revision` names, or ""."""
    found = _git(directory, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return "" if found.returncode else found.stdout.strip()


def describe(directory: Path, sha: str) -> Commit:
    """Author, date, subject and touched kernel files of the commit `sha`."""
    fields = _checked(directory, "show", "-s", f"--format={_FIELDS}", "--end-of-options", sha).rstrip("\n").split("\0")
    touched = _checked(
        directory,
        *("diff-tree", "--root", "-r", "-m", "--first-parent", "--no-commit-id", "--name-only", "-z"),
        *("--end-of-options", sha, "--", *KERNEL_PATHS),
    )
    files = tuple(name for name in touched.split("\0") if name)
    date = datetime.fromisoformat(fields[3])
    return Commit(sha=fields[0], author=fields[1], email=fields[2], date=date, subject=fields[4], files=files)


def suspects(repo: str | Path, baseline: str, candidate: str, cache_dir: Path | None = None) -> tuple[Commit, ...]:
    """Commits that `candidate` has and `baseline` has not and that touch kernels, newest first."""
    if baseline == candidate:
        return ()
    directory = open_repo(repo, cache_dir or Path(), fetch=False)
    _complete(repo, directory)
    listed = _checked(directory, "rev-list", "--end-of-options", f"{baseline}..{candidate}", "--", *KERNEL_PATHS)
    return tuple(describe(directory, sha) for sha in listed.split())


def kernels_equal(repo: str | Path, one: str, other: str, cache_dir: Path) -> bool:
    """Whether two commits of an opened repository have the same kernel files."""
    directory = open_repo(repo, cache_dir, fetch=False)
    return one == other or _kernel_trees(directory, one) == _kernel_trees(directory, other)


def _kernel_trees(directory: Path, sha: str) -> list[str]:
    """Hashes of the kernel folders of a commit; "" for one that it lacks."""
    found = [_git(directory, "rev-parse", "--verify", "--quiet", f"{sha}:{path}") for path in KERNEL_PATHS]
    return [entry.stdout.strip() for entry in found]


def in_range(repo: str | Path, span: str, cache_dir: Path) -> tuple[str, tuple[Commit, ...]]:
    """Of a range "A..B": the sha of A, and the commits after it up to B that touch kernels, oldest first."""
    match = _RANGE.fullmatch(span)
    if match is None:
        raise RevisionError(f"{span!r} is no range of commits: write A..B, as for git log.")
    first, last = (resolve(repo, revision, cache_dir).sha for revision in match.groups())
    return first, suspects(repo, first, last, cache_dir)[::-1]


def unmeasured(
    repo: str | Path, branch: str, measured: Sequence[str], cache_dir: Path, limit: int
) -> tuple[Commit, ...]:
    """Commits of `branch` that touch kernels and that none of `measured` contains, oldest first; the newest `limit`.

    The newest one alone where nothing of that branch was measured yet.
    """
    tip = resolve(repo, branch, cache_dir)
    directory = open_repo(repo, cache_dir, fetch=False)
    _complete(repo, directory)
    known = [sha for sha in dict.fromkeys(measured) if _contains(directory, tip.sha, sha)]
    count = limit if known else 1
    arguments = ["rev-list", f"--max-count={count}", "--end-of-options", tip.sha, *(f"^{sha}" for sha in known)]
    listed = _checked(directory, *arguments, "--", *KERNEL_PATHS)
    return tuple(describe(directory, sha) for sha in reversed(listed.split()))


def of_branch(repo: str | Path, branch: str, named: Sequence[str], cache_dir: Path) -> tuple[Commit, ...]:
    """Those of `named` (shas, or how they begin) that `branch` contains as it was last fetched, oldest first by its
    committer's clock."""
    directory = open_repo(repo, cache_dir, fetch=False)
    tip = _commit_of(directory, branch)
    shas = [sha for name in named if (sha := _commit_of(directory, name)) and _contains(directory, tip, sha)]
    listed = _checked(directory, "rev-list", "--no-walk", "--end-of-options", *shas) if shas else ""
    return tuple(describe(directory, sha) for sha in reversed(listed.split()))


def _contains(directory: Path, tip: str, sha: str) -> bool:
    return _git(directory, "merge-base", "--is-ancestor", sha, tip).returncode == 0


def latest_before(repo: str | Path, revision: str, when: datetime, cache_dir: Path) -> Commit:
    """The commit that `revision` led to at the time `when`, by the committers' clocks."""
    tip = resolve(repo, revision, cache_dir)
    directory = open_repo(repo, cache_dir, fetch=False)
    _complete(repo, directory)
    arguments = ("rev-list", "--first-parent", "--max-count=1", f"--before={when.isoformat()}", tip.sha)
    if not (sha := _checked(directory, *arguments).strip()):
        raise RevisionError(f"{revision} has no commit from before {when:%Y-%m-%d %H:%M}: choose a later night.")
    return describe(directory, sha)


def export(repo: str | Path, sha: str, paths: Sequence[str], target: Path) -> None:
    """Write the files under `paths` as they are in the commit `sha` below `target`.

    Paths that the commit does not have are left out, and so are symbolic links, which may lead anywhere; RevisionError
    when it has none of them.
    """
    directory = Path(repo)
    listed = _checked(directory, "ls-tree", "--name-only", "-z", "--end-of-options", sha, "--", *paths)
    present = [name for name in listed.split("\0") if name]
    if not present:
        raise RevisionError(f"commit {sha[:9]} has no {' or '.join(paths)}: it is not a commit of this project.")
    target.mkdir(parents=True, exist_ok=True)
    command = [*_command(directory), "archive", "--format=tar", sha, *present]
    with tempfile.TemporaryFile() as tar:
        done = subprocess.run(command, stdout=tar, stderr=subprocess.PIPE, env=_environment(), check=False)
        if done.returncode:
            raise RevisionError(f"git cannot export commit {sha[:9]}: {_last_line(done.stderr.decode())}.")
        tar.seek(0)
        with tarfile.open(fileobj=tar) as archive:
            _unpack(archive, target)


def _unpack(archive: tarfile.TarFile, target: Path) -> None:
    """The regular files of an archive, and nothing that leads elsewhere. (Python filters so from 3.11.4 on.)"""
    for member in archive:
        content = archive.extractfile(member) if member.isreg() else None
        parts = Path(member.name).parts
        if content is None or member.name.startswith("/") or ".." in parts:
            continue
        file = target.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.read())
        file.chmod(0o755 if member.mode & 0o100 else 0o644)


def dirty_files(repo: str | Path) -> tuple[str, ...]:
    """Kernel files of the worktree at `repo` that differ from HEAD or are not in it; () for a bare repository."""
    if is_url(str(repo)):
        return ()
    arguments = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *KERNEL_PATHS)
    done = _git(Path(repo), *arguments)
    return () if done.returncode else tuple(entry[3:] for entry in done.stdout.split("\0") if entry)


def _open_path(path: Path) -> Path:
    spoken = f"{path} is not a git repository"
    if not path.is_dir():
        raise RevisionError(f"{spoken}: there is no such directory; give a checkout or a URL.")
    found = _git(path, "rev-parse", "--show-toplevel")
    if found.returncode == 0:
        return Path(found.stdout.rstrip("\n"))
    if _git(path, "rev-parse", "--git-dir").returncode == 0:  # a bare repository has no top level
        return path
    raise RevisionError(f"{spoken} that git will read ({_last_line(found.stderr)}): give a checkout or a URL.")


def _open_url(url: str, cache_dir: Path, fetch: bool) -> Path:
    clone = cache_dir / f"{hashlib.sha256(public(url).encode()).hexdigest()[:16]}.git"
    with _alone(clone):
        if not clone.is_dir():
            _clone(url, clone)
        elif fetch:
            _fetch(url, clone)
            _follow_head(url, clone)
    return clone


@contextmanager
def _alone(clone: Path) -> Iterator[None]:
    """One process at a time changes a clone; the others wait."""
    clone.parent.mkdir(parents=True, exist_ok=True)
    with clone.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _clone(url: str, clone: Path) -> None:
    """A bare, shallow clone at `clone`, there only when it is whole; without the URL, which may hold a password."""
    temporary = Path(tempfile.mkdtemp(dir=clone.parent, prefix=".clone-"))
    try:
        _checked(clone.parent, "init", "--quiet", "--bare", str(temporary))
        _fetch(url, temporary, _SHALLOW)
        _follow_head(url, temporary)
        temporary.rename(clone)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch(url: str, clone: Path, *options: str) -> None:
    """Bring all branches and tags of `clone` to where they are at `url`; RevisionError when it cannot be reached."""
    arguments = ("fetch", "--quiet", "--prune", "--force", "--no-tags", "--no-write-fetch-head")
    done = _git(clone, *arguments, *options, "--end-of-options", url, *_REFSPECS, timeout=_REMOTE_TIMEOUT_S)
    if done.returncode and options == (_SHALLOW,) and "shallow" in done.stderr:  # a server of plain files
        done = _git(clone, *arguments, "--end-of-options", url, *_REFSPECS, timeout=_REMOTE_TIMEOUT_S)
    if done.returncode:
        raise _unreachable(url, done.stderr)


def _follow_head(url: str, clone: Path) -> None:
    """HEAD of the clone is the branch that HEAD is at `url` now: a default branch can be renamed."""
    told = _git(clone, "ls-remote", "--symref", "--end-of-options", url, "HEAD", timeout=_REMOTE_TIMEOUT_S)
    if match := re.search(r"^ref: (refs/heads/\S+)\tHEAD$", told.stdout, re.MULTILINE):
        _checked(clone, "symbolic-ref", "HEAD", match[1])


def _boundary(directory: Path) -> set[str]:
    """Commits whose parents a shallow repository lacks."""
    try:
        return set((directory / "shallow").read_text().split())
    except OSError:
        return set()


def _complete(repo: str | Path, directory: Path) -> None:
    """Fetch the whole history of the clone of a URL, unless it is there."""
    if is_url(str(repo)) and _boundary(directory):
        with _alone(directory):
            if _boundary(directory):
                _fetch(str(repo), directory, "--unshallow")


def _unreachable(url: str, stderr: str) -> RevisionError:
    said = public(_last_line(stderr))
    return RevisionError(f"cannot fetch {public(url)} ({said}): check the URL, the network and your access.")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else "git said nothing"


def _environment() -> dict[str, str]:
    """No prompts, no translated messages, and none of the variables that a git hook leaves behind."""
    kept = {
        key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    fixed = {"GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    return {**kept, **fixed, "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh"}  # ext:: would run a command


def _command(directory: Path) -> list[str]:
    return ["git", "-c", "core.fsmonitor=false", "-C", str(directory)]


def _git(directory: Path, *arguments: str, timeout: float = _LOCAL_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    command = [*_command(directory), *arguments]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            env=_environment(),
            timeout=timeout,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        raise RevisionError("git is not installed: install it, fp8bench reads commits with it.") from None
    except subprocess.TimeoutExpired:
        raise RevisionError(f"git {arguments[0]} took longer than {timeout:.0f} s in {directory}: try again.") from None


def _checked(directory: Path, *arguments: str) -> str:
    done = _git(directory, *arguments)
    if done.returncode:
        raise RevisionError(f"git {arguments[0]} failed in {directory}: {_last_line(done.stderr)}.")
    return done.stdout
