"""The configuration: one TOML file, validated once."""

from pyproxy.config.checks import (
    ConfigError,
    Problem,
    cross_checks,
)
from pyproxy.config.fields import (
    field_allowed,
    field_default,
    field_description,
    nested_table,
)
from pyproxy.config.reading import (
    SYSTEM_FILE,
    defaults,
    load,
    parse,
)
from pyproxy.config.sections import (
    DEFAULT_GUEST,
    DEFAULT_UNIT_SIZE,
    Config,
    DaemonSection,
    EmulatedSection,
    GuestSection,
    IscsiSection,
    PrHelperSection,
    Size,
    SocketSection,
    UnitSection,
    VhostUserSection,
    emulated_serial,
    iscsi_settings,
    socket_path,
)

__all__ = [
    "Config",
    "ConfigError",
    "DEFAULT_GUEST",
    "DEFAULT_UNIT_SIZE",
    "DaemonSection",
    "EmulatedSection",
    "GuestSection",
    "IscsiSection",
    "PrHelperSection",
    "Problem",
    "SYSTEM_FILE",
    "Size",
    "SocketSection",
    "UnitSection",
    "VhostUserSection",
    "cross_checks",
    "defaults",
    "emulated_serial",
    "field_allowed",
    "field_default",
    "field_description",
    "iscsi_settings",
    "load",
    "nested_table",
    "parse",
    "socket_path",
]
