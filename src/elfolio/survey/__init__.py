"""survey: what stands in a whole tree of files. In: directories. Out: a row for each ELF file, ranked."""
