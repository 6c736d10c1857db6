"""The configuration: what is accepted, and every mistake told with file, key and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy import config
from pyproxy.scsi.transport_id import IscsiTransportId

GUEST = '[[guest]]\nname = "web"\n'
UNIT = "[[guest.unit]]\nlun = 0\n"
DEVICE = 'device = "/dev/sg1"\n'
GOOD = GUEST + UNIT + DEVICE

# What is wrong, the file, the key as told, words of the sentence.
MISTAKES = [
    ("not TOML", "[[guest", "", ["is not valid TOML: "]),
    ("no guest", "", "guest", ["is required", "[[guest]]"]),
    ("empty guest list", "guest = []", "guest", ["an empty list", "one or more"]),
    ("guest not a table", "guest = [3]", "guest[0]", ["must be a table, got 3"]),
    ("daemon not a table", "daemon = 1\n" + GOOD, "daemon", ["must be a table"]),
    ("unknown table", "[deamon]\n" + GOOD, "deamon", ['did you mean "daemon"?', "known here: daemon, guest"]),
    ("unknown daemon key", '[daemon]\nhost_nam = "x"\n' + GOOD, "daemon.host_nam", ['did you mean "host_name"?']),
    ("unknown guest key", GUEST + "migrate = true\n" + UNIT + DEVICE, "guest[0].migrate", ["migrate_pr"]),
    ("unknown unit key", GOOD + "luns = 1\n", "guest[0].unit[0].luns", ['did you mean "lun"?']),
    ("internal field", 'source = "x"\n' + GOOD, "source", ["is not a known key"]),
    ("quoted key", '"odd key" = 1\n' + GOOD, '"odd key"', ["is not a known key"]),
    (
        "host name",
        '[daemon]\nhost_name = "a b"\n' + GOOD,
        "daemon.host_name",
        ['"a b" is not allowed', "1 to 64 letters"],
    ),
    ("relative runtime_dir", '[daemon]\nruntime_dir = "run"\n' + GOOD, "daemon.runtime_dir", ["an absolute path"]),
    ("peers alone", GOOD + '[[peer]]\nname = "b"\naddress = "/run/b.sock"\n', "migration", ["add a [migration] table"]),
    (
        "peer name twice",
        GOOD + "[migration]\n" + '[[peer]]\nname = "b"\naddress = "/run/b.sock"\n' * 2,
        "peer[1].name",
        ['"b" is already the name of peer[0]'],
    ),
    (
        "own name as peer",
        '[daemon]\nhost_name = "a"\n' + GOOD + '[migration]\n[[peer]]\nname = "a"\naddress = "/run/b.sock"\n',
        "peer[0].name",
        ["is already the name of this host"],
    ),
    (
        "peer address",
        GOOD + '[migration]\n[[peer]]\nname = "b"\naddress = "host-b"\n',
        "peer[0].address",
        ['"host-b" is not an address and a port', "ADDRESS:PORT"],
    ),
    ("listen port", GOOD + '[migration]\nlisten = "[::1]:65536"\n', "migration.listen", ["ADDRESS:PORT"]),
    (
        "no certificate",
        GOOD + '[migration]\nlisten = "[::1]:4420"\nkey = "/k"\nca = "/c"\n',
        "migration.certificate",
        ["is required", "mutual TLS"],
    ),
    (
        "long socket of a peer",
        GOOD + f'[migration]\n[[peer]]\nname = "b"\naddress = "/{"x" * 107}"\n',
        "peer[0].address",
        ["at most 107 bytes"],
    ),
    ("number for state_dir", "[daemon]\nstate_dir = 3\n" + GOOD, "daemon.state_dir", ["3 is not allowed"]),
    (
        "long socket",
        f'[daemon]\ncontrol_socket = "/{"x" * 107}"\n' + GOOD,
        "daemon.control_socket",
        ["at most 107 bytes"],
    ),
    ("poll_seconds", "[daemon]\npoll_seconds = -1\n" + GOOD, "daemon.poll_seconds", ["-1", "0 to 86400"]),
    ("log_format", '[daemon]\nlog_format = "xml"\n' + GOOD, "daemon.log_format", ['"xml"', '"json" or "human"']),
    ("log_level", '[daemon]\nlog_level = "all"\n' + GOOD, "daemon.log_level", ['"all"', '"debug", "info"']),
    ("no guest name", "[[guest]]\n" + UNIT + DEVICE, "guest[0].name", ["is required"]),
    ("guest name", '[[guest]]\nname = ""\n' + UNIT + DEVICE, "guest[0].name", ['"" is not allowed']),
    ("newline in name", '[[guest]]\nname = "web\\n"\n' + UNIT + DEVICE, "guest[0].name", ["is not allowed"]),
    ("no units", GUEST, "guest[0].unit", ["is required", "[[guest.unit]]"]),
    ("migrate_pr", GUEST + 'migrate_pr = "yes"\n' + UNIT + DEVICE, "guest[0].migrate_pr", ['"yes"', "true or false"]),
    ("rawio", GUEST + "rawio = 1\n" + UNIT + DEVICE, "guest[0].rawio", ["1 is not allowed", "true or false"]),
    ("no lun", GUEST + "[[guest.unit]]\n" + DEVICE, "guest[0].unit[0].lun", ["is required", "0 to 16383"]),
    (
        "lun too large",
        GUEST + "[[guest.unit]]\nlun = 16384\n" + DEVICE,
        "guest[0].unit[0].lun",
        ["16384", "0 to 16383"],
    ),
    ("lun negative", GUEST + "[[guest.unit]]\nlun = -1\n" + DEVICE, "guest[0].unit[0].lun", ["-1", "0 to 16383"]),
    ("lun bool", GUEST + "[[guest.unit]]\nlun = true\n" + DEVICE, "guest[0].unit[0].lun", ["true is not allowed"]),
    ("relative device", GUEST + UNIT + 'device = "sg1"\n', "guest[0].unit[0].device", ['"sg1"', "an absolute path"]),
    ("NUL in device", GUEST + UNIT + 'device = "/dev/\\u0000"\n', "guest[0].unit[0].device", ["an absolute path"]),
    ("initiator", GOOD + 'initiator = "me"\n', "guest[0].unit[0].initiator", ['"me"', "naa.", "iqn."]),
    ("rtpi", GOOD + "rtpi = 0\n", "guest[0].unit[0].rtpi", ["1 to 65535"]),
    ("timeout", GOOD + "timeout = 0\n", "guest[0].unit[0].timeout", ["1 to 86400"]),
    ("adopt", GOOD + "adopt = 1\n", "guest[0].unit[0].adopt", ["1 is not allowed", "true or false"]),
    (
        "adopt without tracking",
        GUEST + "migrate_pr = false\n" + UNIT + DEVICE + "adopt = true\n",
        "guest[0].unit[0].adopt",
        ["migrate_pr is false"],
    ),
    ("threads", GOOD + "threads = 65\n", "guest[0].unit[0].threads", ["1 to 64"]),
    ("engine", GOOD + 'engine = "fast"\n', "guest[0].unit[0].engine", ['"auto", "sync", "async" or "bsg"']),
    ("neither backing", GUEST + UNIT, "guest[0].unit[0]", ["exactly one of device, emulated and iscsi"]),
    ("both backings", GOOD + "emulated = {}\n", "guest[0].unit[0]", ["exactly one of device, emulated and iscsi"]),
    ("emulated list", GUEST + UNIT + "emulated = []\n", "guest[0].unit[0].emulated", ["must be a table"]),
    (
        "size word",
        GUEST + UNIT + 'emulated = {size = "1 gig"}\n',
        "guest[0].unit[0].emulated.size",
        ['"1 gig"', '"512MiB"'],
    ),
    ("size zero", GUEST + UNIT + "emulated = {size = 0}\n", "guest[0].unit[0].emulated.size", ["0 is not allowed"]),
    ("size huge", GUEST + UNIT + 'emulated = {size = "2000TiB"}\n', "guest[0].unit[0].emulated.size", ["2000TiB"]),
    (
        "size odd",
        GUEST + UNIT + "emulated = {size = 1000}\n",
        "guest[0].unit[0].emulated.size",
        ["multiple of block_size 512"],
    ),
    (
        "block size",
        GUEST + UNIT + "emulated = {block_size = 520}\n",
        "guest[0].unit[0].emulated.block_size",
        ["512 or 4096"],
    ),
    ("serial", GUEST + UNIT + 'emulated = {serial = "é"}\n', "guest[0].unit[0].emulated.serial", ["1 to 20 letters"]),
    (
        "emulated path",
        GUEST + UNIT + 'emulated = {path = "x"}\n',
        "guest[0].unit[0].emulated.path",
        ["an absolute path"],
    ),
    (
        "duplicate guest",
        GOOD + GUEST + UNIT + "emulated = {}\n",
        "guest[1].name",
        ['"web" is already the name of guest[0]'],
    ),
    ("duplicate lun", GOOD + UNIT + "emulated = {}\n", "guest[0].unit[1].lun", ["0 is already guest[0].unit[0]"]),
    (
        "two guests on one device",
        GOOD + '[[guest]]\nname = "db"\n' + UNIT + 'device = "/dev/../dev/sg1"\n',
        "guest[1].unit[0].device",
        ["/dev/sg1 is already guest[0].unit[0].device", "one registration", "another path"],
    ),
    (
        "two units on one file",
        GUEST + UNIT + 'emulated = {path = "/x"}\n[[guest.unit]]\nlun = 1\nemulated = {path = "/x"}\n',
        "guest[0].unit[1].emulated.path",
        ["/x is already guest[0].unit[0].emulated.path"],
    ),
    (
        "two guests on one helper socket",
        GUEST
        + 'pr_helper = {socket = "/run/pr.sock"}\n'
        + UNIT
        + 'device = "/dev/sg1"\n[[guest]]\nname = "db"\npr_helper = {socket = "/run/../run/pr.sock"}\n'
        + UNIT
        + 'device = "/dev/sg2"\n',
        "guest[1].pr_helper.socket",
        ["/run/../run/pr.sock is already guest[0].pr_helper", "a socket tells which guest connects"],
    ),
    (
        "the helper socket is the control socket",
        GUEST + 'pr_helper = {socket = "/run/pyproxy/control.sock"}\n' + UNIT + 'device = "/dev/sg1"\n',
        "guest[0].pr_helper.socket",
        ["/run/pyproxy/control.sock is already daemon.control_socket"],
    ),
    (
        "helper socket's path",
        GUEST + 'pr_helper = {socket = "/%s"}\n' % ("x" * 103) + UNIT + 'device = "/dev/sg1"\n',
        "guest[0].pr_helper.socket",
        ["is too long, expected at most 103 bytes"],
    ),
    (
        "helper socket's default path",
        '[daemon]\nruntime_dir = "/%s"\n' % ("x" * 92) + GUEST + "pr_helper = {}\n" + UNIT + 'device = "/dev/sg1"\n',
        "guest[0].pr_helper.socket",
        ["x/web-pr.sock is too long"],
    ),
    (
        "helper socket without a device",
        GUEST + "pr_helper = {}\n" + UNIT + "emulated = {}\n",
        "guest[0].pr_helper",
        ["no unit of this guest has a device"],
    ),
    (
        "helper socket's group",
        GUEST + 'pr_helper = {group = ""}\n' + UNIT + 'device = "/dev/sg1"\n',
        "guest[0].pr_helper.group",
        ['"" is not allowed, expected a name or a number'],
    ),
    (
        "helper socket's users",
        GUEST + "pr_helper = {users = [-1]}\n" + UNIT + 'device = "/dev/sg1"\n',
        "guest[0].pr_helper.users",
        ["expected a list, each a name or a number"],
    ),
]


@pytest.mark.parametrize(("text", "key", "words"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_told_with_file_key_and_what_is_allowed(text: str, key: str, words: list[str]) -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text, "/etc/some.toml", {})
    assert [problem.key for problem in caught.value.problems] == [key]
    line = str(caught.value)
    assert line.startswith(f"/etc/some.toml: {key}: " if key else "/etc/some.toml: ")
    assert "\n" not in line
    for word in words:
        assert word in line


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(config.ConfigError) as caught:
        config.parse('[[guest]]\nnam = "x"\n[[guest.unit]]\nlun = "0"\n', "f", {})
    assert [p.key for p in caught.value.problems] == ["guest[0].nam", "guest[0].name", "guest[0].unit[0].lun"]


def test_every_key_can_be_set() -> None:
    got = config.parse(
        """
        [daemon]
        host_name = "host-a"
        runtime_dir = "/run/p"
        state_dir = "/srv/state"
        control_socket = "/run/p/c"
        poll_seconds = 0
        log_format = "json"
        log_level = "debug"

        [[guest]]
        name = "web"
        migrate_pr = false
        rawio = true

        [[guest.unit]]
        lun = 16383
        device = "/dev/sg1"
        initiator = "iqn.2024-01.org.example:host-a,i,0x00023d000001"
        rtpi = 65535
        timeout = 5
        threads = 1
        engine = "bsg"

        [[guest.unit]]
        lun = 1
        emulated = { size = "3 MiB", path = "/srv/unit", block_size = 4096, serial = "S-1" }
        """,
        "f",
        {},
    )
    assert got == config.Config(
        daemon=config.DaemonSection(
            host_name="host-a",
            runtime_dir=Path("/run/p"),
            state_dir=Path("/srv/state"),
            control_socket=Path("/run/p/c"),
            poll_seconds=0,
            log_format="json",
            log_level="debug",
        ),
        guest=(
            config.GuestSection(
                name="web",
                migrate_pr=False,
                rawio=True,
                unit=(
                    config.UnitSection(
                        lun=16383,
                        device=Path("/dev/sg1"),
                        initiator=IscsiTransportId("iqn.2024-01.org.example:host-a", bytes.fromhex("00023d000001")),
                        rtpi=65535,
                        timeout=5,
                        threads=1,
                        engine="bsg",
                    ),
                    config.UnitSection(
                        lun=1,
                        emulated=config.EmulatedSection(
                            size=config.Size(3145728), path=Path("/srv/unit"), block_size=4096, serial="S-1"
                        ),
                    ),
                ),
            ),
        ),
        source="f",
    )


def test_adoption_is_asked_for() -> None:
    assert config.parse(GOOD, "f", {}).guest[0].unit[0].adopt is False
    assert config.parse(GOOD + "adopt = true\n", "f", {}).guest[0].unit[0].adopt is True


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512B", 512),
        ("1KiB", 1024),
        ("1 MiB", 1048576),
        ("2GiB", 2147483648),
        ("1kB", 1000),
        ("3TB", 3 * 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert config.Size.parse(text) == size


@pytest.mark.parametrize("value", ["", "GiB", "-1", "1.5GiB", "1gib", "0", True, None, 1.0, [1]])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match=r"size|outside"):
        config.Size.parse(value)


def test_defaults_without_a_file_are_one_emulated_unit_under_the_runtime_directory() -> None:
    got = config.defaults({"XDG_RUNTIME_DIR": "/run/user/7"})
    assert got.daemon.runtime_dir == Path("/run/user/7/pyproxy")
    assert got.daemon.state_dir == Path("/run/user/7/pyproxy/state")
    assert got.daemon.control_socket == Path("/run/user/7/pyproxy/control.sock")
    (guest,) = got.guest
    (unit,) = guest.unit
    assert unit.device is None
    assert unit.emulated is not None
    assert (unit.emulated.size, unit.emulated.path) == (1073741824, None)
    assert config.defaults({}).daemon.runtime_dir == Path("/run/pyproxy")


def test_with_a_file_the_state_survives_a_reboot() -> None:
    assert config.parse(GOOD, "f", {"XDG_RUNTIME_DIR": "/run/user/7"}).daemon.state_dir == Path("/var/lib/pyproxy")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"missing\.toml: cannot be read: No such file or directory"):
        config.load(tmp_path / "missing.toml", {})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(config.ConfigError, match=r"latin.toml: is not UTF-8 text \(byte 2\)"):
        config.load(tmp_path / "latin.toml", {})


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "named.toml"
    file.write_text(GOOD)
    assert config.load(None, {"PYPROXY_CONFIG": str(file)}).source == str(file)


def test_emulated_serials_are_stable_and_differ_by_host_guest_and_lun() -> None:
    def serials(host: str) -> list[str]:
        text = f'[daemon]\nhost_name = "{host}"\n'
        for guest in ("a", "b"):
            text += f'[[guest]]\nname = "{guest}"\n' + "".join(
                f"[[guest.unit]]\nlun = {lun}\nemulated = {{}}\n" for lun in (0, 1)
            )
        got = config.parse(text, "f", {})
        return [config.emulated_serial(got, guest, unit) for guest, unit in got.units()]

    assert serials("x") == serials("x")
    assert len({*serials("x"), *serials("y")}) == 8
