"""kernel: Linux's rules. In: layouts or operations, and a Policy. Out: AddressSpace. Never reads this machine."""
