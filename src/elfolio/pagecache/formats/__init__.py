"""pagecache.formats: tensors of model files, as views of what was loaded. In: a path. Out: tensors by name."""
