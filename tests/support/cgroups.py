"""Root directories with the files of /proc and /sys that show cgroups."""

from dataclasses import dataclass, field
from pathlib import Path

V2 = "31 30 0:27 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "33 30 0:29 {root} {point} rw,nosuid shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "34 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
OTHER = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"


@dataclass(frozen=True)
class Root:
    """One root directory.

    Attributes:
        quota: processors that its cgroups allow; None without a limit.
        mounts: lines of /proc/self/mountinfo.
        cgroup: /proc/self/cgroup.
        files: path -> content of the cgroup's files, under /sys/fs/cgroup.
    """

    quota: float | None
    mounts: tuple[str, ...] = ()
    cgroup: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> Path:
        """Create the directory with these files."""
        own = directory / "proc/self"
        own.mkdir(parents=True)
        (own / "mountinfo").write_text("".join(line + "\n" for line in (OTHER, *self.mounts)))
        (own / "cgroup").write_text(self.cgroup)
        for name, content in self.files.items():
            path = directory / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return directory


def v2(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    """A mount of cgroup v2."""
    return V2.format(root=root, point=point)


def v1(root: str = "/", point: str = "/sys/fs/cgroup/cpu,cpuacct") -> str:
    """A mount of cgroup v1 with the CPU controller."""
    return V1_CPU.format(root=root, point=point)


_V1_LINES = "12:memory:/a\n4:cpu,cpuacct:{path}\n1:name=systemd:/a\n0::/init.scope\n"


def _v1_files(group: str, quota: str, period: str = "100000") -> dict[str, str]:
    directory = f"cpu,cpuacct/{group}"
    return {f"{directory}/cpu.cfs_quota_us": f"{quota}\n", f"{directory}/cpu.cfs_period_us": f"{period}\n"}


ROOTS = {
    "none": Root(None),
    "v2": Root(1.0, (v2(),), "0::/user/a\n", {"user/a/cpu.max": "100000 100000\n"}),
    "v2 max": Root(None, (v2(),), "0::/user/a\n", {"user/a/cpu.max": "max 100000\n"}),
    "v2 half": Root(0.5, (v2(),), "0::/a\n", {"a/cpu.max": "25000 50000\n"}),
    "v2 no period": Root(2.0, (v2(),), "0::/a\n", {"a/cpu.max": "200000\n"}),
    "v2 parent": Root(1.5, (v2(),), "0::/a/b/c\n", {"a/b/c/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}),
    "v2 child": Root(1.0, (v2(),), "0::/a/b\n", {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "800000 100000\n"}),
    "v2 sibling": Root(None, (v2(),), "0::/a\n", {"b/cpu.max": "100000 100000\n"}),
    "v2 name of a child": Root(None, (v2(),), "0::/ab\n", {"a/cpu.max": "100000 100000\n"}),
    "v2 namespace": Root(1.0, (v2(),), "0::/\n", {"cpu.max": "100000 100000\n"}),
    "v2 outside the namespace": Root(1.0, (v2(),), "0::/../other\n", {"cpu.max": "100000 100000\n"}),
    "v2 host path": Root(2.0, (v2("/docker/1f"),), "0::/docker/1f\n", {"cpu.max": "200000 100000\n"}),
    "v2 group in a container": Root(
        1.0, (v2("/docker/1f"),), "0::/docker/1f/a\n", {"a/cpu.max": "100000 100000\n", "cpu.max": "200000 100000\n"}
    ),
    "v2 other root": Root(2.0, (v2("/../1f"),), "0::/\n", {"cpu.max": "200000 100000\n"}),
    "v2 dots in a name": Root(1.0, (v2(),), "0::/a..b\n", {"a..b/cpu.max": "100000 100000\n"}),
    "v2 colon in a name": Root(1.0, (v2(),), "0::/a:b,c\n", {"a:b,c/cpu.max": "100000 100000\n"}),
    "v2 space in a path": Root(
        1.0, (v2(point="/sys/fs/cgroup/a\\040b"),), "0::/c\n", {"a b/c/cpu.max": "100000 100000\n"}
    ),
    "v2 damaged": Root(None, (v2(),), "0::/a\n", {"a/cpu.max": "soon 100000\n"}),
    "v2 empty": Root(None, (v2(),), "0::/a\n", {"a/cpu.max": ""}),
    "v2 zero period": Root(None, (v2(),), "0::/a\n", {"a/cpu.max": "100000 0\n"}),
    "v1": Root(1.0, (V1_MEMORY, v1()), _V1_LINES.format(path="/a"), _v1_files("a", "50000", "50000")),
    "v1 none": Root(None, (v1(),), _V1_LINES.format(path="/a"), _v1_files("a", "-1")),
    "v1 parent": Root(
        3.0, (v1(),), _V1_LINES.format(path="/a/b"), {**_v1_files("a/b", "-1"), **_v1_files("a", "300000")}
    ),
    "v1 host path": Root(1.0, (v1("/docker/1f"),), _V1_LINES.format(path="/docker/1f"), _v1_files("", "100000")),
    "v1 host path without a group": Root(1.0, (v1(),), _V1_LINES.format(path="/docker/1f"), _v1_files("", "100000")),
    "both": Root(
        1.0,
        (v1(), v2(point="/sys/fs/cgroup/unified")),
        _V1_LINES.format(path="/a"),
        {**_v1_files("a", "200000"), "unified/init.scope/cpu.max": "100000 100000\n"},
    ),
}
