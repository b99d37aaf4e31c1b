"""spawn: processes from templates. In: an executable, argv, what the child is to have. Out: a child, or what it said.

The standard library and the C core are all it needs. `template` is the way in; `actions` and `options` say
what can be asked for; `plan` turns that into steps for the C core; `held` and `names` pin the program; `thermostat`
says when to fork children from a process that is ready instead (docs/warm.md), `warming`, `entry`, `tracee` and `stub`
start that process, `warmplan` and `reasons` say what it can serve; `child`, `capture`, `aio` follow a child to its
end; `pool`, `popen`, `aio_popen` and `install` stand in for the standard library's own.
"""
