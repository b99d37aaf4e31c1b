"""layout: how an ELF file lies over pages. In: ElfImage. Out: Layout, Findings, and what another link would make.

Pure: it knows the file and a page size, and nothing of this machine or of a kernel's rules.
"""
