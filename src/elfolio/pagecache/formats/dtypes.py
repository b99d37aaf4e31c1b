"""pagecache.formats.dtypes: the types of tensors' elements. In: a format's word for one. Out: Kind.

Sizes of safetensors' types are those of `Dtype::bitsize` of the package (0.8), blocks of GGML's types those of
ggml.c's type_traits (gguf 0.19 has the same in GGML_QUANT_SIZES).
"""

from dataclasses import dataclass

__all__ = ["GGML", "SAFETENSORS", "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One type. `numpy` is numpy's name for it without a byte order, with `ml_dtypes.` before it where that package has
    it; `torch` is torch's. Empty: they have none."""

    word: str
    elements: int
    """In one block; a block is the least that can stand alone."""
    size: int
    """Bytes of a block."""
    numpy: str = ""
    torch: str = ""

    @property
    def is_block(self) -> bool:
        """Whether an element alone has no address: then the tensor is bytes, a row at a time."""
        return self.elements > 1


def _kinds(*rows: tuple[str, int, int, str, str]) -> dict[str, Kind]:
    return {row[0]: Kind(*row) for row in rows}


SAFETENSORS = _kinds(
    ("BOOL", 1, 1, "bool", "bool"),
    ("F4", 2, 1, "", "float4_e2m1fn_x2"),
    ("F6_E2M3", 4, 3, "", ""),
    ("F6_E3M2", 4, 3, "", ""),
    ("U8", 1, 1, "u1", "uint8"),
    ("I8", 1, 1, "i1", "int8"),
    ("F8_E5M2", 1, 1, "ml_dtypes.float8_e5m2", "float8_e5m2"),
    ("F8_E4M3", 1, 1, "ml_dtypes.float8_e4m3fn", "float8_e4m3fn"),
    ("F8_E8M0", 1, 1, "ml_dtypes.float8_e8m0fnu", "float8_e8m0fnu"),
    ("F8_E4M3FNUZ", 1, 1, "ml_dtypes.float8_e4m3fnuz", "float8_e4m3fnuz"),
    ("F8_E5M2FNUZ", 1, 1, "ml_dtypes.float8_e5m2fnuz", "float8_e5m2fnuz"),
    ("I16", 1, 2, "i2", "int16"),
    ("U16", 1, 2, "u2", "uint16"),
    ("F16", 1, 2, "f2", "float16"),
    ("BF16", 1, 2, "ml_dtypes.bfloat16", "bfloat16"),
    ("I32", 1, 4, "i4", "int32"),
    ("U32", 1, 4, "u4", "uint32"),
    ("F32", 1, 4, "f4", "float32"),
    ("C64", 1, 8, "c8", "complex64"),
    ("F64", 1, 8, "f8", "float64"),
    ("I64", 1, 8, "i8", "int64"),
    ("U64", 1, 8, "u8", "uint64"),
)

_PLAIN = {
    0: ("F32", 4, "f4", "float32"),
    1: ("F16", 2, "f2", "float16"),
    24: ("I8", 1, "i1", "int8"),
    25: ("I16", 2, "i2", "int16"),
    26: ("I32", 4, "i4", "int32"),
    27: ("I64", 8, "i8", "int64"),
    28: ("F64", 8, "f8", "float64"),
    30: ("BF16", 2, "ml_dtypes.bfloat16", "bfloat16"),
}
_BLOCKS = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
GGML = {number: Kind(word, 1, size, numpy, torch) for number, (word, size, numpy, torch) in _PLAIN.items()} | {
    number: Kind(word, elements, size) for number, (word, elements, size) in _BLOCKS.items()
}
"""By enum ggml_type. Numbers that are missing were types once, or are none yet."""
