"""bench: where the README's figures come from. Run the files, not the package: `make bench`, `make demo`."""
