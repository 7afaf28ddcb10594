"""On what a benchmark ran: the machine, and the Python that it was measured by.

How Python was built counts as much as the machine: a build without optimisation by profile takes up to a
third more of the CPU than one with it.
"""

import os
import platform
import sys
import sysconfig


def machine() -> str:
    """One line, for ``machine`` of a benchmark's object."""
    hardware = f"{platform.machine()} {os.cpu_count()} CPUs, Linux {platform.release()}"
    return f"{hardware}, {platform.python_implementation()} {platform.python_version()} {build()}"


def build() -> str:
    """How this Python was built. Debian and Fedora optimise theirs outside of ``configure``, which
    ``sysconfig`` does not show: for these the result names the distribution.
    """
    if "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")):
        return "built with optimisation"
    return "of the distribution" if sys.base_prefix == "/usr" else "built without optimisation"
