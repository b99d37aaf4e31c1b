"""elf.notes: notes. In: the file's bytes, its PT_NOTE segments and SHT_NOTE sections. Out: Notes, and faults.

Header fields are 4 bytes in both classes, as all systems have it. Name and descriptor are padded to 4 bytes, or to 8
where the segment's or section's alignment is 8 (gABI, "Note Section", as GNU tools read it since .note.gnu.property).
"""

from collections.abc import Iterable
from typing import NamedTuple

from elfolio.elf import constants as c
from elfolio.elf.buffers import text
from elfolio.elf.head import Form
from elfolio.elf.image import Fault, Note, Section, Segment
from elfolio.span import FileOffset, round_up

__all__ = ["read_notes"]

_HEADER = 12


class _Place(NamedTuple):
    start: int
    size: int
    align: int


def read_notes(
    data: memoryview, form: Form, segments: Iterable[Segment], sections: Iterable[Section], faults: list[Fault]
) -> tuple[Note, ...]:
    """Those of segments, then those of sections that no segment has (of an object file all; the build id of a program
    that Go has linked). Of a broken place, the notes before the fault."""
    notes: list[Note] = []
    places = [_Place(s.offset, s.filesz, s.align) for s in segments if s.type == c.PT_NOTE]
    room = _read_places(data, form, places, notes, len(data), faults)
    known = {note.offset for note in notes}
    places = [_Place(s.offset, s.size, s.addralign) for s in sections if s.type == c.SHT_NOTE and s.offset not in known]
    _read_places(data, form, places, notes, room, faults)
    return tuple(notes)


def _read_places(
    data: memoryview, form: Form, places: Iterable[_Place], notes: list[Note], room: int, faults: list[Fault]
) -> int:
    """Reads on within `room` bytes; returns what is left of them."""
    for place in dict.fromkeys(places):  # the same place named twice holds its notes once
        if place.start + place.size > len(data):
            continue  # the segment's or section's own fault
        room -= place.size
        if room < 0:
            faults.append(Fault("notes that overlap", place.start, "n_namesz", None, "each byte in one note"))
            break
        _read_place(data, form, place, notes, faults)
    return room


def _read_place(data: memoryview, form: Form, place: _Place, notes: list[Note], faults: list[Fault]) -> None:
    step = 8 if place.align == 8 else 4
    at, size = 0, place.size
    body = data[place.start : place.start + size]
    while at + _HEADER <= size:
        namesz, descsz, kind = (int.from_bytes(body[i : i + 4], form.byteorder) for i in (at, at + 4, at + 8))
        name_end = at + _HEADER + namesz
        desc = round_up(name_end, step)
        end = desc + descsz
        # The last descriptor may lack its padding, and one without bytes its name's.
        if name_end > size or (descsz and end > size):
            field, found, limit = ("n_namesz", namesz, size - at - _HEADER)
            if name_end <= size:
                field, found, limit = "n_descsz", descsz, max(0, size - desc)
            where = place.start + at + (0 if field == "n_namesz" else 4)
            faults.append(Fault("note outside of its segment", where, field, found, f"at most {limit:#x}"))
            return
        owner = text(body[at + _HEADER : name_end]).partition("\0")[0]
        notes.append(Note(owner, kind, bytes(body[desc:end]), FileOffset(place.start + at)))
        at = round_up(end, step)
