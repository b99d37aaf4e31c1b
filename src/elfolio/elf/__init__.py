"""elf: ELF files. In: bytes. Out: what stands in them, in frozen values.

What the spawn room needs of a program and its libraries stands in `dynamic`; the room is to grow.
"""
