"""CPU quotas of control groups, read from a pretended /proc and /sys."""

import os

import pytest

from whisper2max.runtime.quota import quota_of_cpus

V2 = "25 24 0:22 {seen} {at} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 24 0:28 {seen} {at} rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct"
OTHER = """24 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 24 0:30 / /sys/fs/cgroup/memory rw shared:13 - cgroup cgroup rw,memory"""


def machine(tmp_path, groups, mounts, files):
    """A root with the lines of /proc/self/cgroup and mountinfo, and files of groups by their path."""
    files = {"/proc/self/cgroup": "\n".join(groups), "/proc/self/mountinfo": "\n".join([OTHER, *mounts]), **files}
    for path, text in files.items():
        place = tmp_path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n")
    return tmp_path


def version_2(tmp_path, text, files=None):
    """A process in /a of version 2, whose cpu.max is `text`."""
    files = {"/sys/fs/cgroup/a/cpu.max": text, **(files or {})}
    return machine(tmp_path, ["0::/a"], [V2.format(seen="/", at="/sys/fs/cgroup")], files)


def version_1(tmp_path, quota, period="100000", group="/a"):
    """A process in /a of version 1, with other hierarchies beside."""
    folder = "/sys/fs/cgroup/cpu,cpuacct" + group
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}
    groups = ["5:memory:/a", f"4:cpu,cpuacct:{group}", "3:cpuset:/", "1:name=systemd:/a", "0::/a"]
    return machine(tmp_path, groups, [V1.format(seen="/", at="/sys/fs/cgroup/cpu,cpuacct")], files)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("100001 100000", 2),
        ("1000 100000", 1),
        ("50000 25000", 2),
        ("6400000 100000", 64),
        ("max 100000", None),
    ],
)
def test_version_2(tmp_path, text, cpus):
    assert quota_of_cpus(version_2(tmp_path, text)) == cpus


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [("200000", "100000", 2), ("150000", "100000", 2), ("25000", "50000", 1), ("-1", "100000", None)],
)
def test_version_1(tmp_path, quota, period, cpus):
    assert quota_of_cpus(version_1(tmp_path, quota, period)) == cpus


@pytest.mark.parametrize("text", ["", "max", "200000", "200000 0", "0 100000", "-5 100000", "2e5 1e5", "1 2 3", "a\0b"])
def test_odd_content_is_no_quota(tmp_path, text):
    assert quota_of_cpus(version_2(tmp_path, text)) is None


@pytest.mark.parametrize(("quota", "period"), [("", "100000"), ("200000", ""), ("-2", "100000"), ("200000", "0")])
def test_odd_content_of_version_1_is_no_quota(tmp_path, quota, period):
    assert quota_of_cpus(version_1(tmp_path, quota, period)) is None


@pytest.mark.parametrize("smallest", ["", "/pod", "/pod/container", "/pod/container/job"])
def test_the_smallest_quota_on_the_way_up_counts(tmp_path, smallest):
    files = {f"/sys/fs/cgroup{group}/cpu.max": "800000 100000" for group in ("", "/pod", "/pod/container/job")}
    files["/sys/fs/cgroup/pod/container/cpu.max"] = "max 100000"
    files["/sys/fs/cgroup/pod/beside/cpu.max"] = "100000 100000"
    files[f"/sys/fs/cgroup{smallest}/cpu.max"] = "300000 100000"
    mounts = [V2.format(seen="/", at="/sys/fs/cgroup")]
    assert quota_of_cpus(machine(tmp_path, ["0::/pod/container/job"], mounts, files)) == 3


def test_the_top_of_a_container_with_its_own_namespace(tmp_path):
    files = {"/sys/fs/cgroup/cpu.max": "200000 100000"}
    assert quota_of_cpus(machine(tmp_path, ["0::/"], [V2.format(seen="/", at="/sys/fs/cgroup")], files)) == 2


def test_a_container_that_sees_the_path_of_its_host(tmp_path):
    groups, seen = ["4:cpu,cpuacct:/docker/7f/job"], "/docker/7f"
    folder = "/sys/fs/cgroup/cpu,cpuacct"
    files = {f"{folder}/cpu.cfs_quota_us": "250000", f"{folder}/cpu.cfs_period_us": "100000"}
    files |= {f"{folder}/job/cpu.cfs_quota_us": "-1", f"{folder}/job/cpu.cfs_period_us": "100000"}
    assert quota_of_cpus(machine(tmp_path, groups, [V1.format(seen=seen, at=folder)], files)) == 3


@pytest.mark.parametrize(("group", "seen"), [("/../beside", "/"), ("/docker/7f", "/docker/8a"), ("/docker/7f", "/..")])
def test_a_mount_that_does_not_show_the_group_says_nothing(tmp_path, group, seen):
    files = {"/sys/fs/cgroup/cpu.max": "200000 100000", "/sys/fs/beside/cpu.max": "200000 100000"}
    root = machine(tmp_path, [f"0::{group}"], [V2.format(seen=seen, at="/sys/fs/cgroup")], files)
    assert quota_of_cpus(root) is None


def test_both_versions_at_once(tmp_path):
    root = version_1(tmp_path, "400000")
    with (root / "proc/self/mountinfo").open("a") as mountinfo:
        mountinfo.write(V2.format(seen="/", at="/sys/fs/cgroup/unified") + "\n")
    folder = root / "sys/fs/cgroup/unified/a"
    folder.mkdir(parents=True)
    assert quota_of_cpus(root) == 4
    (folder / "cpu.max").write_text("300000 100000\n")
    assert quota_of_cpus(root) == 3


def test_names_with_spaces_and_colons(tmp_path):
    mounts = [V2.format(seen="/my\\040slice", at="/sys/my\\040groups")]
    files = {"/sys/my groups/a:b c/cpu.max": "200000 100000"}
    assert quota_of_cpus(machine(tmp_path, ["0::/my slice/a:b c"], mounts, files)) == 2


@pytest.mark.parametrize("line", ["", "0", "0:", "0::", "::/a", "nonsense", "0::a", "0:cpu:\0"])
def test_odd_lines_of_proc_are_passed_over(tmp_path, line):
    root = version_2(tmp_path, "200000 100000")
    proc = root / "proc/self"
    mountinfo = (proc / "mountinfo").read_text()
    (proc / "cgroup").write_text(f"{line}\n0::/a\n")
    (proc / "mountinfo").write_text(f"{line}\n25 24 0:22 / - cgroup2\n1 - cgroup2 cgroup2 rw\n{mountinfo}")
    assert quota_of_cpus(root) == 2
    (proc / "cgroup").write_text(line)
    assert quota_of_cpus(root) is None


@pytest.mark.parametrize("missing", ["proc/self/cgroup", "proc/self/mountinfo", "sys/fs/cgroup/a/cpu.max"])
@pytest.mark.parametrize("how", ["missing", "a folder", "no text"])
def test_what_cannot_be_read_is_no_quota(tmp_path, missing, how):
    root = version_2(tmp_path, "200000 100000")
    (root / missing).unlink()
    if how == "a folder":
        (root / missing).mkdir()
    elif how == "no text":
        (root / missing).write_bytes(b"\xff\xfe\0\x80")
    assert quota_of_cpus(root) is None


def test_a_group_named_in_bytes_that_are_no_text(tmp_path):
    root = version_2(tmp_path, "200000 100000")
    folder = os.fsencode(root / "sys/fs/cgroup") + b"/\xff"
    os.mkdir(folder)
    with open(folder + b"/cpu.max", "w") as file:
        file.write("100000 100000\n")
    (root / "proc/self/cgroup").write_bytes(b"0::/\xff\n")
    assert quota_of_cpus(root) == 1
