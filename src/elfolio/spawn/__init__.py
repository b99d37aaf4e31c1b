"""spawn: processes from templates. In: an executable, argv, what the child is to have. Out: a child, or what it said.

The standard library and the C core are all it needs. `template` is the way in; `actions` and `options` say
what can be asked for; `plan` turns that into steps for the C core; `held` and `names` pin the program; `child`,
`capture`, `aio` follow it to its end; `pool`, `popen`, `aio_popen` and `install` stand in for the standard
library's own.
"""
