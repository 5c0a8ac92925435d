"""What the checks share: which files they look at, and a cache of what has already passed."""

import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

FOLDERS = ("ipc", "kernels", "storage", "client", "daemon", "tools", "tests")
HEADERS = (".h", ".hpp", ".cuh")
SOURCES = HEADERS + (".c", ".cc", ".cpp", ".cu")


def default_root():
    return pathlib.Path(__file__).resolve().parents[2]


def tracked_files(root, suffixes=None):
    """Paths relative to root of what git tracks; of everything but build output where there is no git."""
    git = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    if git.returncode == 0 and (root / ".git").exists():
        paths = [p for p in git.stdout.split("\0") if p]
    else:
        paths = []
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = [s for s in subfolders if s not in ("build", ".git", ".cache", "__pycache__")]
            paths += [os.path.relpath(os.path.join(folder, n), root) for n in names]
    paths = [p for p in paths if os.path.isfile(os.path.join(root, p))]
    return sorted(p for p in paths if suffixes is None or p.endswith(suffixes))


def ours(path):
    return path.split("/", 1)[0] in FOLDERS


def compile_commands(root, preset):
    """The entries of a preset's compile_commands.json as (file relative to root, directory, arguments)."""
    build = root / "build" / preset
    if (build / "build.ninja").exists() or not (build / "compile_commands.json").exists():
        quiet(["cmake", "--preset", preset], root)  # what is there may be of another preset of this name
    if (build / "build.ninja").exists():
        quiet(["cmake", "--build", str(build), "--target", "generated-headers"], root)
    entries = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        arguments = entry.get("arguments") or shlex.split(entry["command"])
        while os.path.basename(arguments[0]) == "ccache":
            arguments = arguments[1:]
        file = os.path.relpath(os.path.join(entry["directory"], entry["file"]), root)
        entries.append((file, entry["directory"], arguments))
    return entries


def target_of(arguments):
    """The target that a compile command is of, as CMake names the folder of its objects."""
    output = arguments[arguments.index("-o") + 1] if "-o" in arguments else ""
    return output.split(".dir/")[0].replace("CMakeFiles/", "") if ".dir/" in output else ""


def flags_only(arguments):
    """A compile command without its compiler, its input and its output."""
    flags = []
    skip = False
    for argument in arguments[1:]:
        if skip:
            skip = False
        elif argument in ("-o", "-MF", "-MT", "-MQ"):
            skip = True
        elif argument not in ("-c", "-MD", "-MMD") and not (
                not argument.startswith("-") and argument.endswith(SOURCES)):
            flags.append(argument)
    return flags


def quiet(command, root):
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stdout}")


@functools.lru_cache(maxsize=None)
def content_hash(path):
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    except OSError:
        return "gone"


def parse_dependencies(makefile_text):
    """The prerequisites of the only rule in what -M printed."""
    text = makefile_text.replace("\\\n", " ").split(":", 1)[1]
    return [p.replace("\0", " ") for p in text.replace("\\ ", "\0").split()]


class PassCache:
    """Remembers that a subject passed, with the content of every file that was read to find that out.

    `identity` is whatever else the outcome depends on: tool version, configuration, command line.
    Failures are never remembered.
    """

    def __init__(self, root, check):
        self.folder = root / ".cache" / "checks" / check
        self.folder.mkdir(parents=True, exist_ok=True)

    def _file(self, subject):
        return self.folder / (hashlib.sha256(subject.encode()).hexdigest()[:32] + ".json")

    def has(self, subject, identity):
        try:
            entry = json.loads(self._file(subject).read_text())
        except (OSError, ValueError):
            return False
        return entry["identity"] == identity and all(
            content_hash(path) == digest for path, digest in entry["files"].items())

    def add(self, subject, identity, directory, files, started):
        """`files` were read after `started` (wall clock); one that changed since makes no entry."""
        paths = [os.path.join(directory, f) for f in files]
        if any(os.path.getmtime(p) >= started - 1 for p in paths if os.path.exists(p)):
            return
        entry = {"identity": identity, "files": {p: content_hash(p) for p in paths}}
        temporary = self._file(subject).with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(entry))
        temporary.replace(self._file(subject))


def run_all(check, subjects, function, jobs):
    """Runs function(subject) -> (cached, output of a failure or None); returns the exit status."""
    started = time.time()
    failures = cached = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
        for was_cached, output in pool.map(function, subjects):
            cached += was_cached
            if output is not None:
                failures += 1
                print(output.rstrip(), flush=True)
    print(f"{check}: {len(subjects)} checked ({cached} unchanged), {failures} failed,"
          f" {time.time() - started:.1f} s")
    return 1 if failures else 0


def default_jobs():
    return len(os.sched_getaffinity(0))
