"""live: a running system. In: /proc, /sys, process numbers. Out: the same types as the models'. Reads only."""
