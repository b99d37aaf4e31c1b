"""report: what a command found, for people and for programs. In: values. Out: text, JSON. Never probes."""
