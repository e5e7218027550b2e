"""docs/containers.md is true: its image is built, and its pod is run, each line of them.

No container runtime is needed: in a mount namespace of its own, as root for the image, then as the
pod's user with its groups, on a read-only root file system, with volumes as Kubernetes mounts them.
What pip would install is what these tests run with.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "containers.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
SAXPY = """
extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
"""
LIMIT_SECONDS = 100

ALONE = ["unshare", "--mount", "--propagation", "private"]
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def may_mount() -> None:
    """Skip where there can be no machine of one's own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount, and act for other users")
    if Path(sys.prefix).is_relative_to("/srv"):
        pytest.skip("what these tests run with lies in /srv, where they mount a file system")
    trial = "mount -t tmpfs ajit-test /srv && setpriv --reuid 1000 --clear-groups true"
    done = subprocess.run([*ALONE, "sh", "-ec", trial], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no mount namespace can be made here: {done.stderr.strip()}")


PROBE = """
import sys, time, urllib.error, urllib.request
def get(path):
    try:
        with urllib.request.urlopen("http://127.0.0.1:8000" + path, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, ""
    except OSError:
        return 0, ""
deadline = time.monotonic() + 60
while get("/ready")[0] != 200 and time.monotonic() < deadline:
    time.sleep(0.05)
print("healthz", *get("/healthz"))
print("ready", *get("/ready"))
"""


def instructions(stage: int) -> list[tuple[str, str]]:
    """The instructions of one stage of the Dockerfile."""
    stages = re.split(r"^FROM .*\n", BLOCKS["dockerfile"], flags=re.MULTILINE)[1:]
    lines = stages[stage].strip().splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def build(stage: int) -> list[str]:
    """The shell lines that do what a stage says; Python and packages are there already."""
    lines = ["cd /srv"]
    user = ""
    for word, rest in instructions(stage):
        if word == "ENV":
            lines.append(f"export {rest}")
        elif word == "USER":
            uid, gid = rest.split(":")
            user = f"setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs "
        elif word == "COPY" and not rest.startswith("--from"):
            source, target = rest.split()
            lines.append(f"mkdir -p {Path(target).parent}; cp -r /srv/context/{source} {target}")
        elif word == "RUN" and not rest.startswith("pip install"):
            lines.append(f"{user}sh -ec {shlex.quote(rest)}")
    return lines


def pod() -> tuple[dict[str, str], str]:
    """Environment and identity of the pod, as its manifest says."""
    manifest = BLOCKS["yaml"]
    env = dict(re.findall(r"\{name: (\w+), value: (\S+)\}", manifest))
    found = re.search(r"runAsUser: (\d+), runAsGroup: (\d+), fsGroup: (\d+)", manifest)
    assert found is not None
    assert "readOnlyRootFilesystem: true" in manifest
    uid, gid, group = found.groups()
    who = f"setpriv --reuid {uid} --regid {gid} --groups {group} --no-new-privs"
    return env, f"{who} --bounding-set=-all --inh-caps=-all"


def reachable_python() -> list[str]:
    """Let other users reach this interpreter, which may lie in root's home."""
    top = "/" + Path(sys.base_prefix).parts[1]
    if Path(top).stat().st_mode & 0o005 == 0o005:
        return []
    return [
        "mkdir /srv/python",
        f"mount --bind {sys.base_prefix} /srv/python",
        f"mount -t tmpfs -o mode=755 ajit-test {top}",
        f"mkdir -p {sys.base_prefix}",
        f"mount --bind /srv/python {sys.base_prefix}",
    ]


def in_a_machine_of_its_own(tmp_path: Path, lines: list[str]) -> str:
    """Run shell lines where the directories of the page are new; return what they print."""
    context = tmp_path / "context"
    (context / "kernels").mkdir(parents=True)
    (context / "kernels" / "saxpy.cu").write_text(SAXPY)
    (context / "server.py").write_text(BLOCKS["py"])
    start = [
        "set -e",
        "umask 022",
        "for place in /opt /srv /var/cache; do mount -t tmpfs -o mode=755 ajit-test $place; done",
        f"cp -r {context} /srv/context",
        *reachable_python(),
        f"export PATH={Path(sys.executable).parent}:$PATH PYTHONDONTWRITEBYTECODE=1",
    ]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AJIT_")}
    done = subprocess.run(
        [*ALONE, "sh"],
        input="\n".join([*start, *lines]),
        env=clean,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def a_free_port() -> int:
    """A port without a listener now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def volumes() -> list[str]:
    """A read-only root, and the pod's volumes with its group, as Kubernetes makes them."""
    group = re.search(r"fsGroup: (\d+)", BLOCKS["yaml"])
    assert group is not None
    mounts = re.findall(r"mountPath: ([^\s}]+)", BLOCKS["yaml"])
    options = f"mode=2777,gid={group[1]}"
    return [
        *(f"mkdir -p {mount}" for mount in mounts),
        *(f"mount -t tmpfs -o {options} ajit-test {mount}" for mount in mounts),
        "mount --bind / /; mount -o remount,ro,bind /",
        "mount -o remount,ro /opt",
        "mount -o remount,ro /srv",
    ]


def environment(env: dict[str, str], **more: str) -> str:
    """A clean environment, as a container has it."""
    words = " ".join(f"{name}={value}" for name, value in {**env, **more}.items())
    return f"env -i PATH=$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={PROJECT} {words}"


def test_the_image_is_built_and_its_gate_passes(tmp_path):
    """On a machine without a GPU; the frozen look-up of the last stage finds the kernel."""
    said = in_a_machine_of_its_own(
        tmp_path, [*build(0), "unset AJIT_CACHE_DIR", *build(1), "ls -ln /opt"]
    )

    assert "compiled" in said
    assert re.search(r"drwxr-xr-x \d+ 0 +0 .* kernels", said)


def test_the_gate_fails_for_an_image_that_lacks_a_kernel(tmp_path):
    """As after an edit of the source in one stage only."""
    edit = "echo >> /srv/context/kernels/saxpy.cu; rm -r /srv/app"
    gate = [*build(1), "echo the gate passed"]

    with pytest.raises(AssertionError, match="compiling is forbidden"):
        in_a_machine_of_its_own(tmp_path, [*build(0), "unset AJIT_CACHE_DIR", edit, *gate])


def test_the_pod_serves_from_its_image_and_keeps_what_it_compiles(tmp_path):
    """As its user, on a read-only root: probes answer, and nothing is compiled that was baked in.

    Another kernel is compiled into the volume, once.
    """
    env, who = pod()
    port = a_free_port()  # the machine's, and 8000 may be in use
    run = f"{who} {environment(env, AJIT_DEVICE='none')}"
    said = in_a_machine_of_its_own(
        tmp_path,
        [
            *build(0),
            "unset AJIT_CACHE_DIR",
            *build(1),
            f"sed -i s/port=8000/port={port}/ /srv/app/server.py",
            f"echo {shlex.quote(PROBE.replace('8000', str(port)))} > /srv/probe.py",
            "sed s/saxpy/other/ /srv/app/kernels/saxpy.cu > /srv/app/kernels/other.cu",
            *volumes(),
            f"{run} python /srv/app/server.py & server=$!",
            f"{run} python /srv/probe.py",
            "kill $server; wait $server || true",
            f"{run} ajit compile /srv/app/kernels/saxpy.cu --entry saxpy --arch sm_90a --json",
            f"{run} ajit compile /srv/app/kernels/other.cu --entry other --arch sm_90a --json",
            f"{run} ajit compile /srv/app/kernels/other.cu --entry other --arch sm_90a --json",
            "find /var/cache/ajit/kernels/entries -type f | wc -l",
            "touch /opt/kernels/x || echo read-only",
        ],
    )

    assert "healthz 200 ok" in said
    assert re.search(r"ready 200 .*from_disk=1|ready 200 .*disk.*1", said), said
    tiers = re.findall(r'"tier": "(\w+)"', said)
    assert tiers == ["disk", "compiled", "disk"]
    assert re.search(r"^1$", said, re.MULTILINE)


def test_a_pod_without_volumes_serves_frozen(tmp_path):
    """The page says that it needs neither."""
    env, who = pod()
    run = f"{who} {environment(env, AJIT_DEVICE='none', AJIT_MODE='frozen')}"
    said = in_a_machine_of_its_own(
        tmp_path,
        [
            *build(0),
            "unset AJIT_CACHE_DIR",
            *build(1),
            "mount --bind / /; mount -o remount,ro,bind /; mount -o remount,ro /var/cache",
            f"{run} ajit compile /srv/app/kernels/saxpy.cu --entry saxpy --arch sm_90a --json",
        ],
    )

    assert '"tier": "disk"' in said


def test_an_archive_fills_the_layer_instead(tmp_path):
    """The three commands of the page, and the frozen look-up after them."""
    commands = re.search(r"^ajit cache export.*?(?=^```)", PAGE, re.DOTALL | re.MULTILINE)
    assert commands is not None
    of_image = [line for line in build(1) if not line.startswith("cp -r")]
    said = in_a_machine_of_its_own(
        tmp_path,
        [
            "cd /srv",  # of that machine: the archive must not be left in the checkout
            "export AJIT_CACHE_DIR=/srv/elsewhere",
            "ajit compile /srv/context/kernels/saxpy.cu --entry saxpy --arch sm_90a",
            *commands[0].splitlines(),
            "chmod -R a+rX,go-w /opt/kernels",
            *of_image,
        ],
    )

    assert "all 1 are there" in said
