"""pagecache: a file's folios, as wished. In: a file, or a directory. Out: what its file system gave."""
