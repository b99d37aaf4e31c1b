"""measure: programs that are started to be looked at. In: a command. Out: what was seen, and comparisons."""
